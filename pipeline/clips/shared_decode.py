"""One pass over a file for all models of a job.

The models of a job run one after the other. The first that reads a file has decoded what the others
will take of it, too, and leaves that in their parts of a frames cache, where they find it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.columns import DIGEST_BYTES, Columns
from pipeline.clips.decoder_process import FramesRead
from pipeline.clips.fetch import OTHER_FILE
from pipeline.clips.views import Views
from pipeline.status import DecodeError, Status

if TYPE_CHECKING:
    # It loads Zarr, which a loader without a cache does without.
    from pipeline.clips.frames_cache import FramesCache


@dataclass(frozen=True)
class SharedReader:
    """Another model of the job, over the same rows."""

    views: Views
    input_size: tuple[int, int]
    """Height and width that it takes, pixels."""
    cache: FramesCache
    """Where its frames are left."""

    def taking(
        self, rows: NDArray[np.int64], keys: NDArray[np.uint8], wanted: NDArray[np.bool_]
    ) -> Taking:
        """Take those of the wanted rows that the cache has room for, and doesn't hold."""
        taking = Taking.of_rows(rows, self.views, self.input_size)
        kept = (rows < self.cache.n_rows) & keys.any(axis=1)
        taking.wanted = wanted & kept & ~self.cache.holds(rows, keys)
        return taking


@dataclass
class Taking:
    """What one model takes of a batch of rows: filled in clip by clip.

    Attributes
    ----------
    columns
        ``row``; ``frames`` uint8 (clips, T, height, width, 3), which stay zeros where ``status``
        isn't ok; ``frame_index`` int32 and ``frame_time`` float64 (clips, T); ``clip_digest`` uint8
        (clips, `DIGEST_BYTES`); ``status`` uint8 and ``message`` (clips,).
    wanted
        (clips,) bool, which clips are to be decoded.
    """

    views: Views
    columns: Columns
    wanted: NDArray[np.bool_]

    @classmethod
    def of_rows(cls, rows: NDArray[np.int64], views: Views, input_size: tuple[int, int]) -> Taking:
        """Start with nothing taken, and every clip wanted."""
        n_clips, n_frames = len(rows), next(iter(views)).sampling.n_samples
        columns: Columns = {
            "row": rows,
            "frames": np.zeros((n_clips, n_frames, *input_size, 3), np.uint8),
            "frame_index": np.full((n_clips, n_frames), -1, np.int32),
            "frame_time": np.full((n_clips, n_frames), np.nan),
            "clip_digest": np.zeros((n_clips, DIGEST_BYTES), np.uint8),
            "status": np.full(n_clips, Status.OK, np.uint8),
            "message": np.full(n_clips, "", object),
        }
        return cls(views, columns, np.ones(n_clips, np.bool_))

    def take(self, clip: int, outcome: FramesRead | DecodeError, digest: bytes) -> None:
        """Fill in what became of a clip; its frames are there already if it is ok."""
        self.columns["clip_digest"][clip] = np.frombuffer(digest, np.uint8)
        if isinstance(outcome, DecodeError):
            self.columns["status"][clip] = outcome.status
            self.columns["message"][clip] = outcome.message
        else:
            self.columns["frame_index"][clip], self.columns["frame_time"][clip] = outcome

    def refuse_other_file(self, clip: int, digest: bytes | None) -> None:
        """Take back what was read of a file if its digest is another; None if none is known."""
        if not digest or self.columns["status"][clip] != Status.OK:
            return
        if self.columns["clip_digest"][clip].tobytes() == digest:
            return
        self.columns["status"][clip] = Status.UNREADABLE
        self.columns["message"][clip] = OTHER_FILE
        for name, nothing in (("frames", 0), ("frame_index", -1), ("frame_time", np.nan)):
            self.columns[name][clip] = nothing

    @property
    def taken(self) -> NDArray[np.bool_]:
        """Whether each clip was wanted, and is ok."""
        ok: NDArray[np.bool_] = self.columns["status"] == Status.OK
        return self.wanted & ok
