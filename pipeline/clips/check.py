"""Opens the header of every clip of a manifest, before a run finds out what it can't read."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.clips.decode import Reading
from pipeline.clips.decoder_process import ExpendableDecoder
from pipeline.clips.fetch import LastRead, fetch_clip
from pipeline.clips.sampling import Sampling
from pipeline.status import DecodeError, Status

_CHILD = "pipeline.clips.header:read_header"
_MEMORY_BYTES = 4_000_000_000
_TIMEOUT_S = 60.0
_READING = Reading(Sampling(kind="uniform", n_samples=1))


@dataclass(frozen=True)
class Header:
    """What a clip's header says: how many frames, and when its last one is shown; or the failure.

    Attributes
    ----------
    n_frames
        Frames in the file; 0 where it can't be opened.
    last_frame_s
        Time of the last frame, in s from the first; NaN where the file doesn't tell.
    """

    status: Status
    message: str = ""
    n_frames: int = 0
    last_frame_s: float = np.nan

    def __str__(self) -> str:
        if self.status is Status.OK:
            return "header ok"
        return f"{self.status.label}: {self.message}"


def check_headers(
    root: str, paths: Sequence[str], *, n_workers: int, n_at_once: int = 256
) -> Iterator[Header]:
    """Open clips one after another, some at a time; gives their headers in order.

    What a header says about its frames may be wrong: only decoding tells.

    Parameters
    ----------
    n_at_once
        Clips that are on their way before the first of them has to be taken.

    Raises
    ------
    StorageError
        As `pipeline.clips.fetch.fetch_clip` does.
    """
    local = threading.local()
    last_read: LastRead = {}
    decoders: list[ExpendableDecoder] = []

    def start() -> None:
        local.decoder = ExpendableDecoder(_CHILD, memory_bytes=_MEMORY_BYTES)
        decoders.append(local.decoder)

    def check(path: str) -> Header:
        try:
            return _read(local.decoder, fetch_clip(root, path, last_read=last_read))
        except DecodeError as error:
            return Header(error.status, error.message)

    try:
        with ThreadPoolExecutor(n_workers, initializer=start) as pool:
            for start_at in range(0, len(paths), n_at_once):
                yield from pool.map(check, paths[start_at : start_at + n_at_once])
    finally:
        for decoder in decoders:
            decoder.close()


def _read(decoder: ExpendableDecoder, data: bytes) -> Header:
    pixel = np.zeros((1, 1, 1, 3), np.uint8)
    (outcome,) = decoder.decode_into([pixel], data, [_READING], timeout_s=_TIMEOUT_S)
    if isinstance(outcome, DecodeError):
        raise outcome
    return Header(
        Status.OK,
        n_frames=int(outcome.frame_index[0]) + 1,
        last_frame_s=float(outcome.frame_time[0]),
    )
