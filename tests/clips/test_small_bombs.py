"""Small files that ask for much: large pictures, very many frames, headers that claim too much.

Each is decoded in a run's own child, with the limits that a run has by default, between two clips
that are ok. It ends in its named status.
"""

import itertools
import struct
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.clips.decode import Reading, read_views
from pipeline.clips.libav_recording import MAX_PACKETS
from pipeline.clips.loader import ClipLoader
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import View, Views
from pipeline.run.config import AttributeConfig
from pipeline.status import DecodeError, Status
from tests.support.clips import numbered_frames, patch_mp4, read_numbers, write_mp4

OK, UNREADABLE, TRUNCATED = Status.OK, Status.UNREADABLE, Status.TRUNCATED
CRASHED, TIMEOUT = Status.CRASHED, Status.TIMEOUT
FRAMES = numbered_frames(12, height=224, width=320)
SAMPLING = Sampling("uniform", 3)
WHOLE = Preprocessing(shortest_edge=224, crop=(224, 320))
GREY = 90
FPS = 25


def grey(width: int, height: int, pix_fmt: str) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane in frame.planes:
        plane.update(bytes([GREY]) * plane.buffer_size)
    frame.time_base = Fraction(1, FPS)
    return frame


def write_grey(path: Path, width: int, height: int, codec: str, pix_fmt: str, **options: str):
    """Write three pictures of one colour."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.thread_count = 1
        frame = grey(width, height, pix_fmt)
        for number in range(3):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_picture_often(path: Path, width: int, height: int, codec: str, pix_fmt: str):
    """Write one picture three times: to encode it takes longest."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.thread_count = 1
        picture = grey(width, height, pix_fmt)
        picture.pts = 0
        data = b"".join(map(bytes, [*stream.encode(picture), *stream.encode()]))
        for number in range(3):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, FPS), stream
            packet.is_keyframe = True
            container.mux(packet)


def write_many_frames(path: Path, n_frames: int):
    """Write a first picture and then only "as before", in VP8, of 17 bytes each."""
    write_mp4(
        path,
        np.full((4, 16, 16, 3), GREY, np.uint8),
        codec="libvpx",
        g="999",
        **{"auto-alt-ref": "0"},
    )
    data = path.read_bytes()
    # The file's header and those of its frames: size and time (IVF has nothing else).
    packets, at = [], 32
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        packets.append(data[at + 12 : at + 12 + size])
        at += 12 + size
    first, last = packets[0], packets[-1]
    rest = np.zeros(
        n_frames - 1, [("size", "<u4"), ("pts", "<u8"), ("data", np.uint8, (len(last),))]
    )
    rest["size"], rest["pts"] = len(last), np.arange(1, n_frames)
    rest["data"] = np.frombuffer(last, np.uint8)
    head = data[:32] + struct.pack("<IQ", len(first), 0) + first
    path.write_bytes(head + rest.tobytes())


def write_small(path: Path, patches: tuple[tuple[bytes, int, bytes], ...], **options: str):
    """Write a small file, and bytes into it: so far behind the first place of some others."""
    write_mp4(path, FRAMES, **options)
    for place, offset, value in patches:
        patch_mp4(path, place, offset, value)


def with_samples_of_a_byte(path: Path, n_samples: int):
    """Have an MP4's index say that there are so many frames of a byte each, in one piece."""
    number = n_samples.to_bytes(4, "big")
    sizes = (1).to_bytes(4, "big") + number
    write_small(path, ((b"stsz", 8, sizes), (b"stsc", 16, number), (b"stts", 12, number)))


def write_raw_header(path: Path, side: int):
    """Write the headers of raw pictures, and hardly any of their bytes."""
    header = f"YUV4MPEG2 W{side} H{side} F{FPS}:1 C420\nFRAME\n"
    path.write_bytes(header.encode() + bytes(999))


H264 = {"codec": "libx264", "pix_fmt": "yuv420p", "preset": "ultrafast"}
HEVC = {"codec": "libx265", "pix_fmt": "yuv420p", "preset": "ultrafast"}
HEVC |= {"x265-params": "log-level=none"}
MJPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}
GIF = {"codec": "gif", "pix_fmt": "rgb8"}
ALL_ONES, LONG = b"\xff" * 4, b"\x7f\xff\xff\xff"
EIGHT_K = {"width": 7680, "height": 4320}
SIXTEEN_K = {"width": 16000, "height": 16000}
"""The largest square of which libav encodes pictures has sides of 16,383."""
THIN = {"width": 65500, "height": 2}

Write = Callable[[Path], None]


def patched(*patches: tuple[bytes, int, bytes], **options: str) -> Write:
    return partial(write_small, patches=patches, **options)


BOMBS: dict[str, tuple[Write, set[Status]]] = {
    # Beyond what is decoded of any picture.
    "16k.avi": (partial(write_picture_often, **SIXTEEN_K, **MJPEG), {TRUNCATED}),
    # Resized to the model's height, a picture of it would be 10 GB.
    "thin.avi": (partial(write_picture_often, **THIN, **MJPEG), {CRASHED}),
    # What the pictures say counts, whatever the header does.
    "size.mp4": (patched((b"avc1\0", 28, ALL_ONES)), {OK}),
    "size.mov": (patched((b"jpeg\0", 28, ALL_ONES), **MJPEG), {OK}),
    "size.avi": (patched((b"strf", 12, b"\xff\xff\xff\x7f" * 2), **MJPEG), {OK}),
    "size.gif": (patched((b"GIF89a", 6, ALL_ONES), **GIF), {TRUNCATED}),
    "size.y4m": (partial(write_raw_header, side=60_000), {UNREADABLE}),
    "8192.y4m": (partial(write_raw_header, side=8192), {UNREADABLE}),
    "duration.mp4": (
        patched((b"mvhd", 20, LONG), (b"tkhd", 24, LONG), (b"mdhd", 20, LONG)),
        {OK},
    ),
    "duration.mkv": (patched((b"\x44\x89\x88", 3, struct.pack(">d", 1e300))), {OK}),
    "length.avi": (patched((b"avih", 24, ALL_ONES), (b"strh", 40, ALL_ONES), **MJPEG), {OK}),
    "a hundred million samples.mp4": (
        partial(with_samples_of_a_byte, n_samples=10**8),
        {UNREADABLE},
    ),
    "billions of samples.mp4": (
        partial(with_samples_of_a_byte, n_samples=2**31 - 1),
        {UNREADABLE},
    ),
}
"""How each file is made, and what it may end in."""

SLOW: dict[str, tuple[Write, set[Status]]] = {
    "8k.mp4": (partial(write_grey, **EIGHT_K, **H264), {OK}),
    "8k_hevc.mp4": (partial(write_grey, **EIGHT_K, **HEVC), {OK}),
    "16k.mov": (partial(write_picture_often, **SIXTEEN_K, **MJPEG), {TRUNCATED}),
    "16k_png.mov": (
        partial(write_picture_often, **SIXTEEN_K, codec="png", pix_fmt="gray"),
        {TRUNCATED},
    ),
    "8192.avi": (partial(write_picture_often, width=8192, height=8192, **MJPEG), {OK}),
    "8192.gif": (patched((b"GIF89a", 6, struct.pack("<HH", 8192, 8192)), **GIF), {OK}),
    "ten million samples.mp4": (partial(with_samples_of_a_byte, n_samples=10**7), {TRUNCATED}),
    # It takes 20 s of CPU, which a busy machine doesn't give in time.
    "a million frames.ivf": (partial(write_many_frames, n_frames=10**6), {OK, TIMEOUT}),
    "four million frames.ivf": (
        partial(write_many_frames, n_frames=MAX_PACKETS + 1),
        {UNREADABLE, TIMEOUT},
    ),
}
"""Those that take seconds."""


def loader_of(folder: Path) -> ClipLoader:
    limits = AttributeConfig.model_fields
    return ClipLoader(
        root=str(folder),
        views=Views((View(SAMPLING, WHOLE),)),
        input_size=WHOLE.crop,
        class_of_label={},
        decode_timeout_s=limits["decode_timeout"].default,
        decode_memory_bytes=int(limits["decode_memory"].default),
    )


def load(folder: Path, names: list[str]) -> dict:
    rows = {
        "row": np.arange(len(names)),
        "video_id": np.array(names, object),
        "path": np.array(names, object),
        "label": np.full(len(names), None),
        "start_time": np.zeros(len(names)),
    }
    return loader_of(folder)(rows)


def assert_ends_as_named(folder: Path, bombs: dict[str, tuple[Write, set[Status]]]):
    """All of them in one batch, each between two clips that are ok."""
    write_mp4(folder / "good.mp4", FRAMES)
    for name, (write, _) in bombs.items():
        write(folder / name)
    names = ["good.mp4", *itertools.chain(*((name, "good.mp4") for name in bombs))]
    columns = load(folder, names)
    for row, name in enumerate(names):
        status, message = Status(columns["status"][row]), columns["message"][row]
        print(name, status.name, message)
        if name == "good.mp4":
            assert status is OK, message
            index = columns["frame_index"][row].tolist()
            assert read_numbers(columns["frames"][row]) == index == [2, 6, 10]
        else:
            assert status in bombs[name][1], (name, status, message)
            assert bool(message) == (status is not OK)


def test_small_bombs_end_in_a_named_status_and_cost_no_other_clip(tmp_path):
    assert_ends_as_named(tmp_path, BOMBS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_bomb_that_takes_seconds_ends_in_a_named_status_and_costs_no_other_clip(tmp_path, name):
    assert_ends_as_named(tmp_path, {name: SLOW[name]})


def test_as_many_frames_as_fit_are_read_right(tmp_path):
    write_many_frames(tmp_path / "a.ivf", 3000)
    (outcome,) = read_views((tmp_path / "a.ivf").read_bytes(), [Reading(SAMPLING)])
    assert not isinstance(outcome, DecodeError), outcome
    assert outcome.n_frames == 3000
    assert outcome.frame_index.tolist() == [500, 1500, 2500]
    assert (np.abs(outcome.frames.astype(int) - GREY) < 4).all()
