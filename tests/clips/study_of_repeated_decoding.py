"""Whether a damaged file ends in one way: ``python -m tests.clips.study_of_repeated_decoding``.

Damages real clips, and small ones of many kinds, at places that are drawn from the date, and
decodes each several times in a run's own child processes: in one that decodes them in order, in one
that goes backwards, in two whose allocator fills memory (``MALLOC_PERTURB_``, so that what is read
before it was written differs), in one that takes other samplings in the same pass, as several views
and models do, in one beside busy processes, and in a fresh process for each. Prints how many files
had more than one outcome (status, message and every pixel), and each of them. ``--only`` takes
files by their numbers.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from pipeline.clips.decode import ClipFrames, Reading, read_views
from pipeline.clips.decoder_process import ExpendableDecoder
from pipeline.clips.recording import DecoderName
from pipeline.clips.sampling import Sampling
from pipeline.status import DecodeError, Status
from tests.support.clips import REAL_CLIPS
from tests.support.mutations import mutated_bytes, seed_of_the_day
from tests.support.recordings import DAMAGE, KINDS, N_FRAMES, damaged, packets_of, write_kind

_CHILD = f"{__package__}.study_of_repeated_decoding:digests"
_MEMORY_BYTES = 4_000_000_000
_TIMEOUT_S = 300.0
_DIGEST_SHAPE = (1, 1, 11, 3)
_SAMPLINGS = (
    Sampling("uniform", 8),
    Sampling("uniform", 3),
    Sampling("uniform", N_FRAMES // 2),
    Sampling("strided", 4, stride=4, position=0.0),
)
FILLED = "MALLOC_PERTURB_"
"""glibc's: bytes with which memory is filled when it is given, and when it is freed."""

Outcome = tuple[str, str]
"""Status, and message or digest."""


def digests(
    data: bytes, readings: Sequence[Reading], decoder: DecoderName
) -> list[ClipFrames | DecodeError]:
    """What the children run: as `read_views`, with a digest of all frames in place of them."""
    return [
        outcome if isinstance(outcome, DecodeError) else _digest(outcome)
        for outcome in read_views(data, readings, decoder)
    ]


def _digest(clip: ClipFrames) -> ClipFrames:
    digest = hashlib.sha256(clip.frame_index.tobytes() + clip.frame_time.tobytes())
    digest.update(repr(clip.frames.shape).encode() + clip.frames.tobytes())
    picture = np.frombuffer(digest.digest() + b"\0", np.uint8).reshape(_DIGEST_SHAPE)
    return ClipFrames(picture, np.zeros(1, np.int64), np.zeros(1), clip.fps, clip.n_frames)


class Files:
    """Damaged files by their numbers: always the same for a seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._seed = seed
        real = [parameter.values[0] for parameter in REAL_CLIPS]
        self._real = [path for path in real if path is not None]
        self._folder = folder

    def __call__(self, number: int) -> tuple[str, bytes, Reading]:
        """What it is, its bytes, and what is read of it. Every second one is of a real clip."""
        random = Random(f"{self._seed} {number}")
        if self._real and number % 2:
            path = random.choice(self._real)
        else:
            path = write_kind(self._folder, random.choice(list(KINDS)))
        reading = Reading(random.choice(_SAMPLINGS))
        how = random.choice([*DAMAGE, "bit", "bytes"])
        places = [] if how == "bytes" else _places(path)
        if not places:
            return f"{path.name} bytes", mutated_bytes(path.read_bytes(), random), reading
        packet = random.choice(places)
        return f"{path.name} {how} in packet {packet}", damaged(path, packet, how, random), reading


@cache
def _places(path: Path) -> list[int]:
    return [n for n, (start, size, _) in enumerate(packets_of(path)) if start and size > 12]


def outcome_of(decoder: ExpendableDecoder, data: bytes, readings: Sequence[Reading]) -> Outcome:
    """Decode a file once: what becomes of the first reading."""
    places = [np.zeros(_DIGEST_SHAPE, np.uint8) for _ in readings]
    outcome, *_ = decoder.decode_into(places, data, readings, timeout_s=_TIMEOUT_S)
    digest = places[0]
    if isinstance(outcome, DecodeError):
        return outcome.status.name, outcome.message
    return Status.OK.name, digest.tobytes().hex()[:16]


@contextmanager
def _environment(filled: str | None) -> Iterator[None]:
    if filled is not None:
        os.environ[FILLED] = filled
    yield
    os.environ.pop(FILLED, None)


@contextmanager
def _busy() -> Iterator[None]:
    """Beside processes that compute, more than there are cores."""
    with ExitStack() as stack:
        for _ in range(2 * (os.cpu_count() or 1)):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def decode_all(
    files: Files, numbers: Sequence[int], filled: str | None = None, n_others: int = 0
) -> list[Outcome]:
    """Decode files one after another in one child, each in one pass with some other samplings."""
    others = [Reading(sampling) for sampling in _SAMPLINGS[:n_others]]
    outcomes = []
    with _environment(filled):
        decoder = ExpendableDecoder(_CHILD, memory_bytes=_MEMORY_BYTES)
        try:
            for number in numbers:
                _, data, reading = files(number)
                outcomes.append(outcome_of(decoder, data, [reading, *others]))
        finally:
            decoder.close()
    return outcomes


def main() -> int:
    """Run the study; 1 if a file had more than one outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--count", type=int, default=200, help="files")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--only", type=int, nargs="*", help="these files")
    parser.add_argument("--fresh", type=int, default=40, help="of these, in fresh processes, too")
    options = parser.parse_args()
    seed = seed_of_the_day()
    numbers = options.only or list(range(options.first, options.first + options.count))
    with tempfile.TemporaryDirectory(prefix="repeated-") as folder:
        files = Files(Path(folder), seed)
        seen = study(files, numbers, options.fresh)
        different = [number for number in numbers if len(set(seen[number].values())) > 1]
        statuses = Counter(next(iter(outcomes.values()))[0] for outcomes in seen.values())
        n_decoded = sum(len(outcomes) for outcomes in seen.values())
        print(f"{len(numbers)} files, decoded {n_decoded} times: {dict(statuses)}")
        print(f"{len(different)} files had more than one outcome")
        for number in different:
            print(f"  {number}: {files(number)[0]}, {files(number)[2].sampling}")
            for how, outcome in seen[number].items():
                print(f"    {how:<12} {' '.join(outcome)}")
    return 1 if different else 0


def study(files: Files, numbers: list[int], n_fresh: int) -> dict[int, dict[str, Outcome]]:
    """Outcomes of each file, by how it was decoded."""
    seen: dict[int, dict[str, Outcome]] = defaultdict(dict)

    def take(how: str, decoded: Sequence[int], outcomes: Sequence[Outcome]) -> None:
        print(f"{how}: {len(outcomes)} files decoded", flush=True)
        for number, outcome in zip(decoded, outcomes, strict=True):
            seen[number][how] = outcome

    take("in order", numbers, decode_all(files, numbers))
    backwards = numbers[::-1]
    take("backwards", backwards, decode_all(files, backwards))
    for filled in ("85", "170"):
        take(f"filled {filled}", numbers, decode_all(files, numbers, filled))
    take("with others", numbers, decode_all(files, numbers, n_others=len(_SAMPLINGS)))
    first = numbers[:n_fresh]
    with _busy():
        take("busy", first, decode_all(files, first))
    take("fresh", first, [decode_all(files, [number])[0] for number in first])
    return seen


if __name__ == "__main__":
    sys.exit(main())
