"""A recording that decord reads: the decoder of this product's first runs, for those who need it.

decord2 is the maintained fork of decord with the same import name. It is kept because pipelines
were trained on its frames, which on whole files are those of the default decoder, to a grey level
or two where another FFmpeg rounds differently. The README beside says where it departs from them.

Frames are read forward, never sought: seeking gives other frames in open groups of pictures, in
MPEG-1, MPEG-4 and WMV, and where an edit list hides the first ones. Frames that can't be decoded
are replaced by their neighbours: ``fault_tol`` makes that an error.
"""

import io
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

import decord
import numpy as np
from numpy.typing import NDArray

from pipeline.clips.timeline import Timeline
from pipeline.status import DecodeError, Status

# FFmpeg writes lines to stderr for every damaged clip; what matters of them is in the status.
decord.logging.set_level(decord.logging.QUIET)

_ERRORS = (
    decord.DECORDError,
    decord.DECORDLimitReachedError,
    RuntimeError,
    UnicodeDecodeError,  # of a message that quotes the file
)
_NO_TIMESTAMP_S = -1e9
"""Presentation times below this stand for FFmpeg's AV_NOPTS_VALUE (a packet that has none)."""
_MOST_TICKS = 2.0**62
"""Ticks that an int64 surely holds."""
_TICK_S = Fraction(1, 1000)
"""Times come as float32 seconds, which after an hour have no more than this."""


class DecordRecording:
    """See `pipeline.clips.recording.Recording`."""

    timeline: Timeline

    def __init__(self, data: bytes, demuxer: str) -> None:
        if demuxer == "mpegts":
            # decord finds no frame times in their index, and gives other frames than asked for.
            raise DecodeError(
                Status.UNREADABLE,
                "decord doesn't decode MPEG transport streams rightly: remux it to mp4, or take "
                "decoder pyav",
            )
        self._data = data
        try:
            self._reader = self._open()
        except (*_ERRORS, AssertionError) as error:
            raise DecodeError(Status.UNREADABLE, f"can't be opened: {_reason(error)}") from error
        self.timeline = self._read_timeline()

    def frames_at(self, positions: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Read forward through the clip; see `pipeline.clips.recording.Recording.frames_at`.

        ``skip_frames`` would save the conversion of those in between to RGB, a fifth of the time.
        It goes by presentation times: where they contradict the order of frames, or two are the
        same, which frame comes next depends on how far decord's own thread has got.
        """
        try:
            reader, self._reader = self._reader or self._open(), None
            position = 0
            for index in positions:
                for _ in range(index - position):
                    reader.next()
                yield _without_padding(reader.next().asnumpy())
                position = index + 1
        except (*_ERRORS, StopIteration) as error:
            raise DecodeError(
                Status.TRUNCATED,
                f"frame {index} of {self.timeline.n_frames} can't be decoded: {_reason(error)}",
            ) from error

    def count(self) -> None:
        """Do nothing: decord promises no frames by packets."""

    def _open(self) -> "decord.VideoReader":
        # Any share above 0 makes the first frame that had to be replaced an error.
        return decord.VideoReader(io.BytesIO(self._data), num_threads=1, fault_tol=1e-9)

    def _read_timeline(self) -> Timeline:
        reader = self._reader
        rate = Fraction(reader.get_avg_fps()).limit_denominator(100_000)
        # decord gives no times where there are no frames: an index of none, or a length of 0.
        spans_s = (
            reader.get_frame_timestamp(range(len(reader))) if len(reader) else np.empty((0, 2))
        )
        # A clip cut without re-encoding starts at a key frame, and its edit list hides what comes
        # before the cut. decord counts those frames, and then decodes none of them.
        hidden = (spans_s[:, 0] < -1e-4) & (spans_s[:, 0] > _NO_TIMESTAMP_S)
        shown_s = spans_s[int(hidden.sum()) :].astype(np.float64)
        # NaN, or what no integer holds, where a container, such as AVI, has no times.
        begins = np.nan_to_num(shown_s[:, 0]) / float(_TICK_S)
        ticks = np.rint(begins.clip(-_MOST_TICKS, _MOST_TICKS)).astype(np.int64)
        if len(ticks) and (np.diff(ticks) > 0).all():
            last = round(float(shown_s[-1, 1] - shown_s[-1, 0]) / float(_TICK_S))
            return Timeline.of_times(ticks, last, _TICK_S, float(reader.get_avg_fps()))
        return Timeline.of_rate(len(shown_s), rate if rate > 0 else None)


def _without_padding(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut a frame's rows to their pixels: (H, W, 3).

    FFmpeg pads the rows of some sizes, above all of turned clips, and decord takes the padding for
    more channels: (160, 96, 4) for 96 pixels of 3 bytes in rows of 384.
    """
    height, width, _ = frame.shape
    return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _reason(error: BaseException) -> str:
    """First line of the decoder's message, without the time and source lines before it.

    A message is part of what a run writes, and doing a clip twice must write the same.
    """
    lines = str(error).splitlines() or [type(error).__name__]
    return re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", lines[0])
