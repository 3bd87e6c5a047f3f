"""Opening a recording with libavformat: a named demuxer, the bytes that are given, and no more."""

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import av

from pipeline.status import DecodeError, Status

# Lines for every damaged clip; what matters of them is in the status.
av.logging.set_level(None)

MAX_PIXELS = 8192 * 8192
"""Pixels of a picture: twice those of 8K video. A larger one would take the memory of a machine."""


def open_stream(data: bytes, demuxer: str, *, max_pixels: int = MAX_PIXELS) -> tuple[Any, Any]:
    """Open a recording by its demuxer: the container, and the video stream in it.

    Parameters
    ----------
    max_pixels
        Pictures of more are refused before one is decoded.

    Raises
    ------
    DecodeError
        ``UNREADABLE``, if there is no video that can be decoded, or one of too many pixels.
    """
    return open_file(io.BytesIO(data), demuxer, max_pixels=max_pixels)


def open_file(file: BinaryIO, demuxer: str, *, max_pixels: int = MAX_PIXELS) -> tuple[Any, Any]:
    """Open a recording that isn't read as a whole; as `open_stream`."""
    try:
        container: Any = av.open(
            file,
            format=demuxer,
            options={"protocol_whitelist": "", "max_pixels": str(max_pixels)},
            io_open=_refuse,
            metadata_errors="replace",
            buffer_size=1 << 18,
        )
    except (av.FFmpegError, ValueError) as error:
        raise DecodeError(Status.UNREADABLE, f"can't be opened: {reason_of(error)}") from error
    return container, video_of(container, max_pixels=max_pixels)


def video_of(container: Any, *, max_pixels: int = MAX_PIXELS) -> Any:
    """Find the video stream of an open container, whose other streams are passed over.

    Raises
    ------
    DecodeError
        ``UNREADABLE``, if there is none that can be decoded, or one beyond all bounds.
    """
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        raise DecodeError(Status.UNREADABLE, "can't be opened: there is no video in the file")
    context = stream.codec_context
    if context is None:
        raise DecodeError(Status.UNREADABLE, "can't be opened: no decoder for its video is known")
    if context.width * context.height > max_pixels:
        raise DecodeError(
            Status.UNREADABLE,
            f"pictures of {context.width}x{context.height} pixels are more than {max_pixels}",
        )
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all
    return stream


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    """Open nothing: a recording is the bytes that were given."""
    raise PermissionError("a recording may open nothing")


def demuxed(container: Any, stream: Any) -> Iterator[Any]:
    """Packets of a stream that have bytes, in the order of decoding."""
    number = 0
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
                number += 1
    except (av.FFmpegError, ValueError) as error:
        raise DecodeError(
            Status.TRUNCATED, f"the file can't be read behind packet {number}: {reason_of(error)}"
        ) from error


def reason_of(error: BaseException) -> str:
    """Say why libav failed in its own words, without names and numbers that change."""
    if isinstance(error, av.FFmpegError):
        return str(error.strerror)
    return type(error).__name__
