"""Small recordings of many kinds, made with PyAV: codecs, containers, structures and damage."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from tests.support.clips import numbered_frames, write_mp4

N_FRAMES, HEIGHT, WIDTH = 60, 64, 96


def noisy_frames(n_frames: int = N_FRAMES, height: int = HEIGHT, width: int = WIDTH) -> NDArray:
    """Numbered frames with noise, so that packets are large enough for damage to hit them."""
    frames = numbered_frames(n_frames, height=height, width=width).astype(np.int16)
    noise = np.random.default_rng(0).integers(-8, 9, frames.shape, np.int16)
    return (frames + noise).clip(0, 255).astype(np.uint8)


def _x264(parameters: str, **options: str) -> dict[str, str]:
    return {"x264-params": parameters, **options}


def _x265(parameters: str = "", **options: str) -> dict[str, str]:
    parameters = ":".join(part for part in ("log-level=none", parameters) if part)
    return {"codec": "libx265", "x265-params": parameters, **options}


MPEG12 = {"codec": "mpeg2video", "g": "12", "bf": "2"}
KINDS: dict[str, dict[str, str]] = {
    "b_frames.mp4": {"g": "25", "bf": "3"},
    "one_gop.mp4": {"g": "250", "bf": "3"},
    "no_b_frames.mov": {"g": "20", "bf": "0"},
    "pyramid.mkv": _x264("b-pyramid=normal:ref=4", g="30", bf="7"),
    "pyramid_strict.flv": _x264("b-pyramid=strict", g="30", bf="5"),
    "open_gop.mp4": _x264("open-gop=1", g="15", bf="3"),
    "open_gop.mkv": _x264("open-gop=1", g="15", bf="3"),
    "intra_refresh.mp4": _x264("intra-refresh=1:keyint=20", bf="0"),
    "slices.mp4": _x264("slices=4", g="20", bf="2"),
    "interlaced.mp4": _x264("tff=1", g="20", bf="2"),
    "interlaced.ts": _x264("tff=1", g="20", bf="2"),
    "cavlc.3gp": _x264("no-cabac=1", g="20", bf="2"),
    "weighted.mp4": _x264("weightp=2:weightb=1:ref=6", g="40", bf="4"),
    "h264_10_bit.mp4": {"pix_fmt": "yuv420p10le", "g": "20", "bf": "3"},
    "h264.avi": {"g": "20", "bf": "0"},
    "h264_b_frames.avi": {"g": "20", "bf": "2"},
    "h264.ts": {"g": "20", "bf": "2"},
    "h264.h264": {"g": "20", "bf": "2"},
    "hevc.mp4": _x265(),
    "hevc.mkv": _x265("keyint=20:bframes=4"),
    "hevc_open_gop.mp4": _x265("keyint=15:open-gop=1:bframes=4"),
    "hevc_layers.mp4": _x265("temporal-layers=1:bframes=4"),
    "hevc_10_bit.mp4": _x265("keyint=20", pix_fmt="yuv420p10le"),
    "hevc.ts": _x265("keyint=20"),
    "hevc.hevc": _x265("keyint=20"),
    "av1.mp4": {"codec": "libsvtav1", "preset": "12", "g": "20"},
    "av1.mkv": {"codec": "libsvtav1", "preset": "12", "g": "20"},
    "av1.ivf": {"codec": "libsvtav1", "preset": "12", "g": "20"},
    "vp8.webm": {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "300k"},
    "vp8.avi": {"codec": "libvpx", "b": "300k"},
    "vp9.webm": {"codec": "libvpx-vp9", "cpu-used": "8", "g": "20"},
    "vp9_alt_ref.mp4": {
        "codec": "libvpx-vp9",
        "auto-alt-ref": "1",
        "lag-in-frames": "16",
        "g": "30",
    },
    "mpeg1.mpg": {"codec": "mpeg1video", "bf": "2"},
    "mpeg1.mkv": {"codec": "mpeg1video", "bf": "2"},
    "mpeg2.mpg": MPEG12,
    "mpeg2.vob": MPEG12,
    "mpeg2.ts": MPEG12,
    "mpeg2.mkv": MPEG12,
    "mpeg2.mp4": MPEG12,
    "mpeg2.m2v": MPEG12,
    "mpeg2.mxf": {"codec": "mpeg2video", "g": "12", "bf": "2", "b": "1M"},
    "mpeg4.mp4": {"codec": "mpeg4", "bf": "2"},
    "mpeg4.avi": {"codec": "mpeg4", "bf": "0"},
    "mpeg4_b_frames.avi": {"codec": "mpeg4", "bf": "2"},
    "mpeg4.mkv": {"codec": "mpeg4", "bf": "2", "g": "15"},
    "mpeg4.m4v": {"codec": "mpeg4", "bf": "2"},
    "divx3.avi": {"codec": "msmpeg4"},
    "h263.avi": {"codec": "h263p"},
    "sorenson.flv": {"codec": "flv"},
    "wmv2.wmv": {"codec": "wmv2"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "dnxhd.mxf": {"codec": "dnxhd", "profile": "dnxhr_lb", "pix_fmt": "yuv422p"},
    "ffv1.mkv": {"codec": "ffv1"},
    "huffyuv.avi": {"codec": "ffvhuff"},
    "png.mov": {"codec": "png", "pix_fmt": "rgb24"},
    "gif.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "raw.y4m": {"codec": "wrapped_avframe"},
    "theora_like.ogg": {"codec": "libvpx"},
    "snow.mkv": {"codec": "snow", "strict": "-2"},
}
"""Encoder options of each file, by its name, whose suffix is the container."""


def write_kind(folder: Path, name: str) -> Path:
    """Write a file of a kind, once per folder."""
    path = folder / name
    if not path.exists():
        size = {"height": 256, "width": 256} if "dnxhd" in name or "mxf" in name else {}
        write_mp4(path, noisy_frames(**size), 25.0, **KINDS[name])
    return path


def write_fragmented(path: Path) -> Path:
    """Write an MP4 in fragments, like streaming servers and recorders that may be interrupted."""
    write_remuxed(
        write_mp4(path.with_name("whole.mp4"), noisy_frames(), 25.0, g="15", bf="2"),
        path,
        movflags="frag_keyframe+empty_moov",
    )
    return path


def write_remuxed(source: Path, target: Path, *, format: str | None = None, change=None, **options):
    """Copy the packets of a file into another container; ``change(number, packet)`` may alter or
    drop (by False) each."""
    with (
        av.open(str(source)) as read,
        av.open(str(target), "w", format=format, options=options) as to,
    ):
        stream = read.streams.video[0]
        copied = to.add_stream_from_template(stream)
        number = 0
        for packet in read.demux(stream):
            if packet.size:
                kept = change(number, packet) if change else True
                number += 1
                if kept is not False:
                    packet.stream = copied
                    to.mux(packet)
    return target


def set_edits(path: Path, *edits: tuple[float, float]) -> Path:
    """Make an MP4 show these parts of its media, each (start, duration) in s, by an edit list.

    ISO/IEC 14496-12, 8.6.6. The index must lie behind the frames, so that these keep their places.
    """
    data = path.read_bytes()
    moov = data.index(b"moov") - 4
    assert moov > data.index(b"mdat")
    body = bytearray(data[moov:])
    movie_scale = int.from_bytes(body[body.index(b"mvhd") + 16 :][:4], "big")
    media_scale = int.from_bytes(body[body.index(b"mdhd") + 16 :][:4], "big")
    if (old := body.find(b"edts")) >= 0:
        size = int.from_bytes(body[old - 4 : old], "big")
        start_ticks = int.from_bytes(body[old + 24 : old + 28], "big")
        del body[old - 4 : old - 4 + size]
        _grow(body, -size)
    else:
        start_ticks = 0
    entries = b"".join(
        round(duration * movie_scale).to_bytes(4, "big")
        + (start_ticks + round(start * media_scale)).to_bytes(4, "big")
        + b"\0\1\0\0"
        for start, duration in edits
    )
    elst = b"elst" + bytes(4) + len(edits).to_bytes(4, "big") + entries
    elst = (len(elst) + 4).to_bytes(4, "big") + elst
    edts = (len(elst) + 8).to_bytes(4, "big") + b"edts" + elst
    tkhd = body.index(b"tkhd") - 4
    end = tkhd + int.from_bytes(body[tkhd : tkhd + 4], "big")
    body[end:end] = edts
    _grow(body, len(edts))
    path.write_bytes(data[:moov] + body)
    return path


def _grow(body: bytearray, n_bytes: int) -> None:
    for kind in (b"moov", b"trak"):
        at = body.index(kind) - 4
        size = int.from_bytes(body[at : at + 4], "big") + n_bytes
        body[at : at + 4] = size.to_bytes(4, "big")


def packets_of(path: Path) -> list[tuple[int, int, int | None]]:
    """Place and size in the file, and the time, of each packet that has bytes."""
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.video[0])
        return [(packet.pos, packet.size, packet.pts) for packet in packets if packet.size]


def _zeros(data: bytearray, start: int, size: int, seed: random.Random) -> None:
    data[start + 6 : start + size] = bytes(size - 6)


def _noise(data: bytearray, start: int, size: int, seed: random.Random) -> None:
    data[start : start + size] = seed.randbytes(size)


def _bit(data: bytearray, start: int, size: int, seed: random.Random) -> None:
    data[start + seed.randrange(6, size)] ^= 1 << seed.randrange(8)


def _tail(data: bytearray, start: int, size: int, seed: random.Random) -> None:
    data[start + size // 2 : start + size] = bytes(size - size // 2)


DAMAGE: dict[str, Callable[[bytearray, int, int, random.Random], None]] = {
    "zeros": _zeros,
    "noise": _noise,
    "bit": _bit,
    "tail": _tail,
}
"""Ways to damage a packet."""


def damaged(path: Path, packet: int, how: str, seed: random.Random) -> bytes:
    """Return a file's bytes with one packet damaged."""
    data = bytearray(path.read_bytes())
    start, size, _ = packets_of(path)[packet]
    DAMAGE[how](data, start, size, seed)
    return bytes(data)


def forward_frames(data: bytes) -> tuple[list[NDArray[np.uint8]], list[float | None]]:
    """Decode every frame forward with PyAV, the reference; return frames and their times in s."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.best("video")
        frames, times = [], []
        for frame in container.decode(stream):
            picture = frame.to_ndarray(format="rgb24")
            frames.append(np.rot90(picture, k=frame.rotation // 90))
            times.append(frame.time)
    return frames, times
