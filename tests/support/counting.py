"""The real decoder, which notes each file that it is given: how often something was decoded."""

import atexit
import hashlib
import os
import shutil
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

from pipeline.clips.decode import read_views

DECODE = "tests.support.counting:decode"
NOTES = "COUNTING_NOTES"
"""Environment variable with the file that notes go to; read by each child when it starts."""


def decode(data, readings, decoder):
    """Note the file, and how many views are read of it; then decode."""
    with Path(os.environ[NOTES]).open("a") as notes:
        notes.write(f"{hashlib.sha256(data).hexdigest()} {len(readings)}\n")
    return read_views(data, readings, decoder)


@cache
def notes() -> "Notes":
    """Notes of this process, whose decoders outlive a test."""
    folder = tempfile.mkdtemp(prefix="counting-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[NOTES] = f"{folder}/notes"
    return Notes(Path(os.environ[NOTES]))


class Notes:
    """What was noted since it was last asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("")

    def taken(self) -> Counter:
        """Passes over each file, by its digest; they are forgotten then."""
        lines = self.path.read_text().splitlines()
        self.path.write_text("")
        return Counter(line.split()[0] for line in lines)

    def n_passes(self) -> int:
        """Passes over all files."""
        return self.taken().total()
