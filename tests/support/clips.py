"""Video files for tests, made with PyAV; their frames carry their own number."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

BITS = 10
"""Bits of a frame's number that are painted into it; the largest number is 1023."""


def numbered_frames(n_frames: int, *, height: int = 96, width: int = 160) -> NDArray[np.uint8]:
    """Frames that carry their own number as black and white bars, so that no reference is needed.

    The number's bits are bars over the upper half, most significant first. The lower half is a
    drifting colour gradient, which gives an encoder motion to code. Returns (n_frames, height,
    width, 3).
    """
    frames = np.empty((n_frames, height, width, 3), np.uint8)
    bar = width // BITS
    rows, columns = np.mgrid[0 : height - height // 2, 0:width]
    for number in range(n_frames):
        frames[number, : height // 2] = 128
        for bit in range(BITS):
            lit = (number >> (BITS - 1 - bit)) & 1
            frames[number, : height // 2, bit * bar : (bit + 1) * bar] = 235 if lit else 20
        frames[number, height // 2 :, :, 0] = (columns + 3 * number) % 256
        frames[number, height // 2 :, :, 1] = (2 * rows + number) % 256
        frames[number, height // 2 :, :, 2] = 90
    return frames


def read_numbers(frames: NDArray[np.uint8]) -> list[int]:
    """Read the numbers that `numbered_frames` painted; a bar that is neither colour gives -1."""
    _, height, width, _ = frames.shape
    bar = width // BITS
    numbers = []
    for frame in frames:
        top = frame[2 : height // 2 - 2]
        levels = [top[:, bit * bar + 2 : (bit + 1) * bar - 2].mean() for bit in range(BITS)]
        clear = all(level < 60 or level > 195 for level in levels)
        numbers.append(sum((level > 128) << (BITS - 1 - i) for i, level in enumerate(levels)))
        if not clear:
            numbers[-1] = -1
    return [int(number) for number in numbers]


def write_mp4(
    path: Path,
    frames: NDArray[np.uint8],
    fps: float = 30.0,
    *,
    codec: str = "libx264",
    faststart: bool = False,
    times: Sequence[int] | None = None,
    pix_fmt: str = "yuv420p",
    **options: str,
) -> Path:
    """Encode (T, H, W, 3) RGB frames; the container follows the path's suffix.

    Parameters
    ----------
    faststart
        Put the index (``moov``) before the frames, as in files made for streaming.
    times
        Presentation time of each frame in 1/1000 s, for a variable frame rate.
    options
        The encoder's options, for example ``g="12"``, ``bf="3"``, ``crf="18"``.
    """
    rate = Fraction(fps).limit_denominator(1001)
    container_options = {"movflags": "+faststart"} if faststart else {}
    with _usual_scheduling(), av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@contextmanager
def _usual_scheduling() -> Iterator[None]:
    """Undo what SVT-AV1 does where it may, as root: it leaves this thread in the real-time class.

    The thread and whatever it starts would then go before every other process of the machine, such
    as the Ray of other tests.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    os.sched_setscheduler(0, policy, parameters)


def write_audio(path: Path) -> Path:
    """Write one second of silence: a media file without a video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 16000, 1024):
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def pyav_frames(path: Path) -> NDArray[np.uint8]:
    """Decode all frames in presentation order with PyAV, rotated as the file says: (T, H, W, 3)."""
    with av.open(str(path)) as container:
        pictures = [
            np.rot90(frame.to_ndarray(format="rgb24"), k=frame.rotation // 90)
            for frame in container.decode(container.streams.best("video"))
        ]
    return np.stack(pictures)


def trim_mp4(source: Path, target: Path, n_hidden: int) -> Path:
    """Cut the first frames off without re-encoding: an edit list hides them from players."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as cut:
        stream = whole.streams.video[0]
        copied = cut.add_stream_from_template(stream)
        shift = round(n_hidden / (stream.time_base * stream.average_rate))
        for packet in whole.demux(stream):
            if packet.dts is not None:
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = copied
                cut.mux(packet)
    return target


def turn_mp4(path: Path, matrix: tuple[int, int, int, int] = (0, 1, -1, 0)) -> Path:
    """Make the file say that its pictures must be turned, by default 90 degrees clockwise.

    Parameters
    ----------
    matrix
        (a, b, c, d): a picture's pixel (x, y) is shown at (a x + c y, b x + d y).
    """
    data = bytearray(path.read_bytes())
    # The matrix of the track header box, version 0 (ISO/IEC 14496-12, 8.3.2).
    start = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    data[start : start + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in values)
    path.write_bytes(data)
    return path


def patch_mp4(path: Path, box: bytes, offset: int, value: bytes) -> Path:
    """Write ``value`` into an MP4's first box of a kind, ``offset`` bytes from the kind's name."""
    data = bytearray(path.read_bytes())
    start = data.index(box) + offset
    data[start : start + len(value)] = value
    path.write_bytes(data)
    return path


def _real_clips() -> list[Path]:
    folder = Path(__file__).resolve().parents[3] / "shared" / "clips"
    if not (folder / "clips.tsv").exists():
        return []
    lines = (folder / "clips.tsv").read_text().splitlines()[1:]
    paths = [folder / line.split("\t")[0] for line in lines]
    return [path for path in paths if path.suffix != ".txt"]


REAL_CLIPS = [pytest.param(path, id=path.name) for path in _real_clips()] or [
    pytest.param(None, marks=pytest.mark.skip(reason="no folder shared/clips beside the checkout"))
]
"""Parameters for tests over real clips, which lie beside the checkout and not in it."""
