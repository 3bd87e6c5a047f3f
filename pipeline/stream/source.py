"""Where a stream comes from: a file, a camera device, or a URL of a protocol that is allowed.

FFmpeg opens whatever it is asked to, and what it opens may ask for more: playlists name files and
other hosts. So a scheme has the protocols and the formats that may be used for it, and everything
else is refused by name. Credentials of a URL go to libav alone; what is shown and stored has none.
"""

import os
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipeline.clips.containers import demuxer_of
from pipeline.clips.libav_opening import MAX_PIXELS, open_file, reason_of, video_of
from pipeline.clips.orientation import upright
from pipeline.errors import ConfigError
from pipeline.status import DecodeError
from pipeline.text import printable, without_credentials

OPEN_TIMEOUT_S = 10.0
"""For a source that doesn't answer when it is opened."""
READ_TIMEOUT_S = 10.0
"""For a source that is open and sends nothing: then it is lost, and opened again."""

_RECORDINGS = "mpegts,mpjpeg,mjpeg,matroska,webm,flv,mov,mp4,m4v,h264,hevc,mpeg,mpegvideo,ogg,ivf"
"""Formats that play what they are given; playlists, lists of files and scripts aren't among
them."""


@dataclass(frozen=True)
class _Scheme:
    """What libav may use for a scheme."""

    protocols: str
    formats: str
    format: str | None = None
    options: tuple[tuple[str, str], ...] = ()


_TIMELESS = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "mpegvideo"})
"""Demuxers of what has no times of its own."""
_SCHEMES = {
    # Over TCP no packet is lost; cameras speak both.
    "rtsp": _Scheme("rtp,udp,tcp", "rtsp,mpegts", options=(("rtsp_transport", "tcp"),)),
    "rtsps": _Scheme("rtp,udp,tcp,tls", "rtsp,mpegts", options=(("rtsp_transport", "tcp"),)),
    "rtmp": _Scheme("rtmp,tcp", "flv", "flv"),
    "http": _Scheme("http,tcp", _RECORDINGS),
    "https": _Scheme("https,http,tls,tcp", _RECORDINGS),
    "udp": _Scheme("udp", "mpegts", "mpegts"),
    "tcp": _Scheme("tcp", _RECORDINGS),
}
"""Schemes that are allowed."""

_UNTRUSTED = (
    "if its certificate is its own, or of somebody who isn't trusted here, name a file with it in "
    "SSL_CERT_FILE"
)

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_NAME = re.compile(r"\w[\w.-]*")
_HEAD_BYTES = 1 << 16

Kind = Literal["file", "device", "network"]


class SourceError(Exception):
    """A source can't be opened, or broke off; says why on one line, without credentials."""


@dataclass(frozen=True)
class Source:
    """A source by its name.

    Attributes
    ----------
    name
        Of the stream, in the store, on the page and in metrics.
    url
        As it was given: a path, a device below ``/dev``, or a URL, in which ``${NAME}`` stands for
        a variable of the environment.
    """

    name: str
    url: str

    @property
    def kind(self) -> Kind:
        """What is read."""
        if "://" in self.url:
            return "network"
        return "device" if self.url.startswith("/dev/") else "file"

    @property
    def shown(self) -> str:
        """The URL as it may be shown and stored."""
        return printable(without_credentials(self.url))

    def resolved(self) -> str:
        """Put the environment's variables in; not for logs.

        Raises
        ------
        SourceError
            If a variable isn't set.
        """

        def value(found: re.Match[str]) -> str:
            if (text := os.environ.get(found[1])) is None:
                raise SourceError(f"{self.shown}: the environment has no {found[1]}")
            return text

        return _VARIABLE.sub(value, self.url)


def _named_part(text: str) -> str:
    """Give the part of a URL that may be shown as a name: its path, or else its host."""
    if "://" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    return parts.path.strip("/") or parts.netloc.rpartition("@")[2]


def _is_file_with_an_equals_sign(text: str, behind: str) -> bool:
    """Whether a text names a file as it is, and what is behind its equals sign names none."""
    with suppress(OSError):
        return "://" not in behind and Path(text).is_file() and not Path(behind).exists()
    return False


def parse_source(text: str) -> Source:
    """Make a source of ``name=url``, or of a URL, whose last part then is the name.

    Raises
    ------
    ConfigError
        If it isn't a source that may be opened, or is a file that isn't there.
    """
    name, equals, url = text.partition("=")
    if not equals or not _NAME.fullmatch(name) or _is_file_with_an_equals_sign(text, url):
        stem = Path(_named_part(text).rstrip("/")).stem
        name, url = re.sub(r"[^\w.-]+", "-", stem).strip(".-") or "stream", text
    source = Source(name, url)
    where = f"source: {source.shown}"
    if not url:
        raise ConfigError(f"source: {text!r} names nothing; expected name=URL, or a URL")
    if source.kind == "network":
        scheme = url.partition("://")[0].lower()
        if scheme not in _SCHEMES:
            raise ConfigError(
                f"{where} has the scheme {scheme!r:.40}, expected one of {', '.join(_SCHEMES)}, a "
                "file, or a device below /dev"
            )
        return source
    try:
        is_device, is_file = Path(url).is_char_device(), Path(url).is_file()
    except OSError as error:
        # As of a name that is too long, or a folder that may not be read.
        raise ConfigError(f"{where} can't be read: {error.strerror}") from error
    if source.kind == "device":
        if not is_device:
            raise ConfigError(f"{where} isn't there, or is no device of a camera")
    elif not is_file:
        raise ConfigError(f"{where} isn't there, or is no file")
    else:
        _demuxer(source)
    return source


@dataclass(frozen=True)
class SourceFrame:
    """A frame as it was decoded.

    Attributes
    ----------
    pts
        When it is shown, in ticks of the source's own clock; None if the source doesn't say.
    duration
        Its length in ticks; None if it isn't known.
    image
        (height, width, 3) uint8, RGB, upright.
    """

    pts: int | None
    duration: int | None
    image: NDArray[np.uint8]


class OpenSource:
    """A source that is open.

    Attributes
    ----------
    tick_s
        Length of a tick of its clock in s; None if it has none.
    fps
        Its mean rate by its header, in frames/s; NaN if the header has none.
    is_finite
        Whether the source knows its own length, as a file does that is served.
    n_damaged
        Frames so far that couldn't be decoded.
    """

    def __init__(self, container: Any, stream: Any, *, is_file: bool) -> None:
        self._container, self._stream = container, stream
        self.tick_s: Fraction | None = stream.time_base
        # Of pictures or packets alone, sent as they come, libav makes times up, 25 a second.
        timeless = not is_file and container.format.name in _TIMELESS
        rate: Fraction | None = None if timeless else stream.average_rate or stream.guessed_rate
        self.rate = rate
        self.fps = float(rate) if rate else float("nan")
        # A recording that is still written tells a duration, too, and no size.
        self.is_finite = bool(container.duration) and (
            is_file or container.format.name == "rtsp" or container.size > 0
        )
        # AVI has the times of decoding alone.
        has_wrong_times = container.format.name == "avi" and stream.codec_context.has_b_frames
        self._has_times = not timeless and not has_wrong_times
        self.n_damaged = 0
        context: Any = stream.codec_context
        # Frame threads hold a frame back for each thread.
        context.thread_count = 1
        context.thread_type = "NONE"
        context.options = {"max_pixels": str(MAX_PIXELS)}

    def frames(self) -> Iterator[SourceFrame]:
        """Decode forward, in presentation order; what is damaged is left out, and counted.

        Raises
        ------
        SourceError
            If the source breaks off.
        """
        reformatter = VideoReformatter()
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, EOFError):
                # `EOFError` as libav's name for the end.
                break
            except (av.FFmpegError, OSError, ValueError) as error:
                raise SourceError(reason_of(error)) from error
            try:
                decoded = packet.decode()
            except EOFError:
                break
            except (av.FFmpegError, ValueError):
                self.n_damaged += 1
                continue
            for frame in decoded:
                if frame.is_corrupt or frame.width * frame.height > MAX_PIXELS:
                    self.n_damaged += 1
                    continue
                pts = frame.pts if self._has_times else None
                yield SourceFrame(pts, frame.duration or None, upright(frame, reformatter))


@contextmanager
def opened(source: Source) -> Iterator[OpenSource]:
    """Hold a source open.

    Raises
    ------
    SourceError
        If it can't be opened.
    """
    try:
        if source.kind == "file":
            with Path(source.url).open("rb") as file:
                container, stream = open_file(file, _demuxer(source))
                with container:
                    yield OpenSource(container, stream, is_file=True)
            return
        with _opened_by_libav(source) as container:
            yield OpenSource(container, video_of(container), is_file=False)
    except DecodeError as error:
        raise SourceError(error.message) from error
    except ConfigError as error:
        raise SourceError(str(error)) from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise SourceError(f"can't be opened: {reason_of(error)}") from error


def _opened_by_libav(source: Source) -> Any:
    options = {"max_pixels": str(MAX_PIXELS)}
    timeout = (OPEN_TIMEOUT_S, READ_TIMEOUT_S)
    if source.kind == "device":
        return av.open(source.url, format="v4l2", timeout=timeout, options=options)
    scheme = _SCHEMES[source.url.partition("://")[0].lower()]
    options |= {"protocol_whitelist": scheme.protocols, "format_whitelist": scheme.formats}
    options |= dict(scheme.options)
    is_encrypted = "tls" in scheme.protocols
    if is_encrypted:
        options |= _trust()
    url = source.resolved()
    try:
        return av.open(
            url,
            format=scheme.format,
            timeout=timeout,
            options=options,
            metadata_errors="replace",
        )
    except av.FFmpegError as error:
        if not is_encrypted:
            raise
        # libav doesn't say what it was that failed.
        raise SourceError(f"can't be opened: {reason_of(error)}; {_UNTRUSTED}") from error


def _trust() -> dict[str, str]:
    """Have a peer's certificate be checked, as libav takes any if it isn't told to."""
    trusted = ssl.get_default_verify_paths().cafile
    return {"tls_verify": "1"} | ({} if trusted is None else {"ca_file": trusted})


def _demuxer(source: Source) -> str:
    """Name the demuxer of a file by its first bytes; `ConfigError` if it isn't a recording."""
    try:
        with Path(source.url).open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise ConfigError(f"source: can't read {source.shown}: {error.strerror}") from error
    demuxer = demuxer_of(head)
    if demuxer is None:
        raise ConfigError(
            f"source: {source.shown}: its first bytes don't belong to any known kind of recording"
        )
    return demuxer


class Pace:
    """Waits until a file's frame is due by its own time."""

    def __init__(self) -> None:
        self._begun: tuple[float, float] | None = None

    def restart(self) -> None:
        """Have the next frame be due at once."""
        self._begun = None

    def wait(self, time_s: float, stop: threading.Event) -> None:
        """Wait for the frame of a time, in s of the file's clock, or until ``stop`` is set."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, time_s
        due = self._begun[0] + time_s - self._begun[1]
        if due > now:
            stop.wait(due - now)
