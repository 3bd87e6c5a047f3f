"""Bytes of a video file to the frames that the model sees; every failure has a named status.

The decoder is decord2, the maintained fork of decord with the same import name. Both were held
against PyAV on 14 real and 50 made files: the same frames, in 81 ms where PyAV takes 71 for 16 of
about 300 frames. But decord 0.6.0 (June 2021, FFmpeg 4.1, wheels for x86-64 alone) opens no AV1,
and takes its process down on half an AVI that decord2 (2025 and 2026, FFmpeg 8) refuses with an
error.

Neither is trusted with its process: a damaged index is enough for a segmentation fault, so a run
decodes in a child, see `pipeline.clips.decoder_process`. Nor with three more things. Seeking, and
so ``get_batch``, gives other frames in open groups of pictures, in MPEG-1, MPEG-4 and WMV, and
where an edit list hides the first ones: frames are read forward, never sought, which is as fast for
samples that are spread over a clip. A file cut short can end the process: one that declares more
bytes than it has is refused before it is opened. Frames that can't be decoded are replaced by their
neighbours: ``fault_tol`` makes that an error.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import decord
import numpy as np
from numpy.typing import NDArray

from pipeline.clips.containers import _is_transport_stream, _lacking_bytes
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.errors import DecodeError
from pipeline.status import Status

_DECODER_ERRORS = (
    decord.DECORDError,
    decord.DECORDLimitReachedError,
    RuntimeError,
    UnicodeDecodeError,  # of a message that quotes the file
)

_NO_TIMESTAMP_S = -1e9
"""Presentation times below this stand for FFmpeg's AV_NOPTS_VALUE (a packet that has none)."""


@dataclass(frozen=True)
class ClipFrames:
    """The frames of one clip that the model sees.

    Attributes
    ----------
    frames
        (T, H, W, 3) uint8, RGB, turned upright as the file's rotation says.
    frame_index
        (T,) int64, the frames' positions in the clip in presentation order, strictly increasing.
    fps
        The clip's mean rate by its header, in frames/s; NaN where the header has none.
    n_frames
        Frames in the clip.
    """

    frames: NDArray[np.uint8]
    frame_index: NDArray[np.int64]
    fps: float
    n_frames: int

    def __post_init__(self) -> None:
        shape = self.frames.shape
        if self.frames.dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3:
            raise ValueError(f"frames are {self.frames.dtype} {shape}, expected uint8 (T, H, W, 3)")
        if self.frame_index.shape != shape[:1]:
            raise ValueError(f"frame_index is {self.frame_index.shape}, expected {shape[:1]}")
        if (np.diff(self.frame_index) <= 0).any():
            raise ValueError(f"frame_index repeats or goes back: {self.frame_index.tolist()}")

    def __repr__(self) -> str:
        return (
            f"ClipFrames(frames={self.frames.shape}, frame_index={self.frame_index.tolist()}, "
            f"fps={self.fps:g}, n_frames={self.n_frames})"
        )


def decode_clip(
    data: bytes, sampling: Sampling, preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bytes of a video file to the model's input: frames (T, h, w, 3) and frame_index (T,).

    Frames are brought to the model's size one by one: sixteen of 4K take 0.4 GB, and the model
    sees 2 MB of them.

    Raises
    ------
    DecodeError
        As `read_frames` does.
    """
    clip = read_frames(data, sampling, preprocessing)
    return clip.frames, clip.frame_index


def read_frames(
    data: bytes, sampling: Sampling, preprocessing: Preprocessing | None = None
) -> ClipFrames:
    """Decode the frames that ``sampling`` takes from a video file.

    ``preprocessing`` resizes and crops each as it comes.

    Decodes with one thread: two were slower on short clips, and a worker has one core.

    Raises
    ------
    DecodeError
        ``EMPTY``, for no bytes; ``UNREADABLE``, when this is not a video that the decoder can open;
        ``TRUNCATED``, when the file declares more bytes than there are, or a frame can't be
        decoded; ``TOO_SHORT``, when the clip has fewer frames than are to be taken.
    """
    if not data:
        raise DecodeError(Status.EMPTY, "the file has no bytes")
    if _is_transport_stream(data):
        raise DecodeError(
            Status.UNREADABLE, "MPEG transport streams aren't decoded rightly: remux it to mp4"
        )
    if lacking := _lacking_bytes(data):
        raise DecodeError(
            Status.TRUNCATED, f"the file has {len(data)} bytes and declares {lacking} more"
        )
    try:
        # Any share above 0 makes the first frame that had to be replaced an error.
        reader = decord.VideoReader(io.BytesIO(data), num_threads=1, fault_tol=1e-9)
    except (*_DECODER_ERRORS, AssertionError) as error:
        raise DecodeError(Status.UNREADABLE, f"can't be opened: {_reason(error)}") from error

    # decord gives no times where there are no frames: an index of none, or a length of 0.
    starts_s = (
        reader.get_frame_timestamp(range(len(reader)))[:, 0]
        if len(reader)
        else np.empty(0, np.float32)
    )
    n_frames = len(reader) - _hidden_frames(starts_s)
    fps = float(reader.get_avg_fps())
    frame_index = sampling.indices(n_frames=n_frames, fps=fps)
    frames: list[NDArray[np.uint8]] = []
    try:
        for frame in _frames_at(reader, frame_index):
            frames.append(preprocessing.resize_and_crop(frame[None])[0] if preprocessing else frame)
    except (*_DECODER_ERRORS, StopIteration) as error:
        raise DecodeError(
            Status.TRUNCATED,
            f"frame {frame_index[len(frames)]} of {n_frames} can't be decoded: {_reason(error)}",
        ) from error
    return ClipFrames(np.stack(frames), frame_index, fps, n_frames)


def _hidden_frames(starts_s: NDArray[np.float32]) -> int:
    """Count the frames before the clip's start, which an edit list has the decoder drop.

    A clip cut without re-encoding starts at a key frame, and its edit list hides what comes before
    the cut. decord counts those frames, and then decodes none of them.
    """
    return int(((starts_s < -1e-4) & (starts_s > _NO_TIMESTAMP_S)).sum())


def _frames_at(
    reader: "decord.VideoReader", frame_index: NDArray[np.int64]
) -> Iterator[NDArray[np.uint8]]:
    """Read forward through the clip and yield the frames asked for, each (H, W, 3) uint8.

    ``skip_frames`` would save the conversion of those in between to RGB, a fifth of the time. It
    goes by presentation times: where they contradict the order of frames, or two are the same,
    which frame comes next depends on how far decord's own thread has got.
    """
    position = 0
    for index in frame_index.tolist():
        for _ in range(index - position):
            reader.next()
        yield _without_padding(reader.next().asnumpy())
        position = index + 1


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


# FFmpeg writes lines to stderr for every damaged clip; what matters of them is in the status.
decord.logging.set_level(decord.logging.QUIET)
