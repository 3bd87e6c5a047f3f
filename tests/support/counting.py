"""The real decoder, which notes each file that it is given: how often something was decoded."""

import hashlib
import os
from collections import Counter
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
