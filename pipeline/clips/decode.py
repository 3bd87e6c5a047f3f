"""Bytes of a video file to the frames that the model sees; every failure has a named status.

A file is read once for all of its views: the frames that any of them takes are decoded in one
pass, and each is resized and cropped as it comes. What becomes of a view is what would become of it
alone. Where a pass over all of them meets damage, each is read by itself, and fails by what it
needs.

A run decodes in a child process, see `pipeline.clips.decoder_process`: a decoder isn't trusted with
its process.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.recording import (
    DecoderName,
    Recording,
    open_recording,
)
from pipeline.clips.sampling import Sampling
from pipeline.clips.timeline import ContradictionError
from pipeline.status import DecodeError, Status


@dataclass(frozen=True)
class Reading:
    """What is read of a file for one row of the store.

    Attributes
    ----------
    sampling
        Which frames are taken.
    preprocessing
        How each is resized and cropped as it comes; None leaves it as it is.
    start_s, end_s
        The segment that is read, in s from the file's first frame; None for the file's own start
        and end.
    """

    sampling: Sampling
    preprocessing: Preprocessing | None = None
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class ClipFrames:
    """The frames of one clip that the model sees.

    Attributes
    ----------
    frames
        (T, H, W, 3) uint8, RGB, turned upright as the file's rotation says.
    frame_index
        (T,) int64, the frames' positions in the file in presentation order, strictly increasing.
    frame_time
        (T,) float64, when they are shown, in s from the file's first frame; NaN where neither the
        container nor a rate tells.
    fps
        The file's mean rate by its header, in frames/s; NaN where the header has none.
    n_frames
        Frames in the file.
    """

    frames: NDArray[np.uint8]
    frame_index: NDArray[np.int64]
    frame_time: NDArray[np.float64]
    fps: float
    n_frames: int

    def __post_init__(self) -> None:
        shape = self.frames.shape
        if self.frames.dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3:
            raise ValueError(f"frames are {self.frames.dtype} {shape}, expected uint8 (T, H, W, 3)")
        for name in ("frame_index", "frame_time"):
            if (found := getattr(self, name).shape) != shape[:1]:
                raise ValueError(f"{name} is {found}, expected {shape[:1]}")
        if (np.diff(self.frame_index) <= 0).any():
            raise ValueError(f"frame_index repeats or goes back: {self.frame_index.tolist()}")

    def __repr__(self) -> str:
        return (
            f"ClipFrames(frames={self.frames.shape}, frame_index={self.frame_index.tolist()}, "
            f"fps={self.fps:g}, n_frames={self.n_frames})"
        )


def read_frames(
    data: bytes,
    sampling: Sampling,
    preprocessing: Preprocessing | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    *,
    decoder: DecoderName = "pyav",
) -> ClipFrames:
    """Decode the frames that ``sampling`` takes from a video file, or from a segment of it.

    Raises
    ------
    DecodeError
        ``EMPTY``, for no bytes; ``UNREADABLE``, when this is not a video that the decoder can open;
        ``TRUNCATED``, when the file declares more bytes than there are, or a frame can't be
        decoded; ``TOO_SHORT``, when the clip has fewer frames than are to be taken; ``CRASHED``,
        when decoding takes more memory than there is.
    """
    (outcome,) = read_views(data, [Reading(sampling, preprocessing, start_s, end_s)], decoder)
    if isinstance(outcome, DecodeError):
        raise outcome
    return outcome


def read_views(
    data: bytes, readings: Sequence[Reading], decoder: DecoderName = "pyav"
) -> list[ClipFrames | DecodeError]:
    """Decode what several views take from a video file, in one pass over it.

    Returns
    -------
    What `read_frames` gives or raises for each of ``readings`` by itself, in order.
    """
    if len(readings) > 1:
        try:
            return _read_together(open_recording(data, decoder), readings)
        except (DecodeError, ContradictionError, MemoryError):
            # One of them failed, and which one isn't known: each is tried by itself.
            pass
    return [_read_alone(data, reading, decoder) for reading in readings]


def _read_alone(data: bytes, reading: Reading, decoder: DecoderName) -> ClipFrames | DecodeError:
    try:
        recording = open_recording(data, decoder)
        try:
            (outcome,) = _read_together(recording, [reading])
        except ContradictionError:
            recording.count()
            (outcome,) = _read_together(recording, [reading])
    except DecodeError as error:
        return error
    except ContradictionError:
        return DecodeError(Status.TRUNCATED, "decoding it twice doesn't give the same frames")
    except MemoryError:
        return DecodeError(Status.CRASHED, "decoding took more memory than decode_memory")
    return outcome


def _read_together(
    recording: Recording, readings: Sequence[Reading]
) -> list[ClipFrames | DecodeError]:
    """Take each reading's frames from one pass; what can't be decoded is an error of the pass."""
    timeline = recording.timeline
    outcomes = [_indices(recording, reading) for reading in readings]
    wanted: dict[int, list[int]] = {}
    for number, indices in enumerate(outcomes):
        if not isinstance(indices, DecodeError):
            for index in indices.tolist():
                wanted.setdefault(index, []).append(number)
    taken: list[list[NDArray[np.uint8]]] = [[] for _ in readings]
    positions = sorted(wanted)
    for position, frame in zip(positions, recording.frames_at(positions), strict=True):
        # Crops of one frame share its resizing, which takes longer than they do, and so do models.
        resized: dict[Preprocessing, Image.Image] = {}
        for number in wanted[position]:
            fitted = frame
            if (preprocessing := readings[number].preprocessing) is not None:
                central = replace(preprocessing.geometry, crop_position=0.5)
                if central not in resized:
                    resized[central] = central.resize_frame(frame)
                fitted = preprocessing.crop_resized(resized[central], frame.shape[:2])
            if taken[number] and fitted.shape != taken[number][0].shape:
                raise DecodeError(
                    Status.UNREADABLE,
                    f"frame {position} is of {fitted.shape[1]}x{fitted.shape[0]} pixels, those "
                    f"before it are of {taken[number][0].shape[1]}x{taken[number][0].shape[0]}",
                )
            taken[number].append(fitted)
    return [
        indices
        if isinstance(indices, DecodeError)
        else ClipFrames(
            np.stack(frames), indices, timeline.seconds(indices), timeline.fps, timeline.n_frames
        )
        for indices, frames in zip(outcomes, taken, strict=True)
    ]


def _indices(recording: Recording, reading: Reading) -> NDArray[np.int64] | DecodeError:
    """Positions in the file of the frames that are taken, or why there are none."""
    segment, first = recording.timeline.segment(reading.start_s, reading.end_s)
    try:
        return reading.sampling.take(segment) + first
    except DecodeError as error:
        if segment.n_frames == recording.timeline.n_frames:
            return error
        end = "its end" if reading.end_s is None else f"{reading.end_s:g} s"
        where = f"the segment from {reading.start_s or 0:g} s to {end}"
        return DecodeError(error.status, error.message.replace("the clip", where, 1))
