"""One stream as MJPEG with the overlay burnt in, for players that show nothing else."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.stream.viewer.hub import Entry, Hub
from pipeline.stream.viewer.messages import jpeg
from pipeline.stream.viewer.overlay import DrawnWindow, Playhead, Reel, blended, burnt_in

MEDIA_TYPE = "multipart/x-mixed-replace; boundary=frame"
FRAMES_PER_S = 10.0
_REPEAT_S = 1.0
"""The last picture is repeated after so long, so that its age and a lost viewer are seen."""
_WAITING = b"X-Waiting: 1\r\n"
"""A header of the part to come, which players pass over. Only when something is sent to it is it
seen that a viewer is gone: from one that has sent more than its request nothing is read."""
_TEXT_SIZE = 13


async def mjpeg_parts(
    hub: Hub, stream: int, *, repeat_s: float = _REPEAT_S
) -> AsyncIterator[bytes]:
    """Give parts of `MEDIA_TYPE` without end, until the hub closes.

    A viewer that doesn't read takes no part; what it missed is left out. Something is given at
    least each ``repeat_s``, also while there is no picture.
    """
    film = _Film(hub.streams[stream])
    follower = asyncio.create_task(_collect(hub, stream, film))
    sent, sent_at = None, time.monotonic()
    try:
        yield b"--frame\r\n"
        while not follower.done():
            now_s = time.monotonic()
            key = film.key(now_s)
            if key is not None and (key != sent or now_s - sent_at >= repeat_s):
                data = jpeg(film.drawn(now_s))
                sent, sent_at = key, now_s
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                # The boundary is sent with the picture: players show it once they see it.
                yield head.encode() + data + b"\r\n--frame\r\n"
            elif key is None and now_s - sent_at >= repeat_s:
                sent_at = now_s
                yield _WAITING
            await asyncio.sleep(1 / FRAMES_PER_S)
    finally:
        follower.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await follower


async def _collect(hub: Hub, stream: int, film: "_Film") -> None:
    async with contextlib.aclosing(hub.follow(("window", "picture"), stream)) as following:
        async for entries in following:
            for entry in entries:
                film.add(entry)


class _Film:
    """What one viewer of MJPEG needs of one stream; pictures are shared with all others."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._reel, self._playhead = Reel(), Playhead()
        self._window: Entry | None = None

    def add(self, entry: Entry) -> None:
        if entry.kind == "picture":
            self._reel.add_picture(entry.value.time_s, entry.value.image)
        else:
            window = DrawnWindow.of(entry.value)
            self._reel.add_window(window)
            self._playhead.window_arrived(window.end_s, time.monotonic())
            self._window = entry

    def key(self, now_s: float) -> object:
        """Tell which picture is due; None if there is none."""
        due = self._reel.picture_at(self._playhead.at(now_s))
        return None if due is None else (due[0], self._window and self._window.version)

    def drawn(self, now_s: float) -> NDArray[np.uint8]:
        due = self._reel.picture_at(self._playhead.at(now_s))
        assert due is not None
        time_s, image = due
        picture = burnt_in(image, blended(self._reel.windows, time_s))
        return _with_caption(picture, self._caption())

    def _caption(self) -> str:
        if self._window is None:
            return f"{self._name}: no window explained yet"
        shown = self._window.shown
        assert shown is not None
        share = "" if shown.probability is None else f" {shown.probability:.0%}"
        return f"{shown.label}{share} · {self._window.age_s():.1f} s old"


def _with_caption(image: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Write a line below a picture."""
    width = image.shape[1]
    strip = Image.new("RGB", (width, _TEXT_SIZE + 9), (20, 22, 26))
    font = ImageFont.load_default(_TEXT_SIZE)
    # Names may have line breaks and any length; the strip cuts off what doesn't fit.
    line = " ".join(text.split())[:200]
    ImageDraw.Draw(strip).text((6, 3), line, fill=(227, 229, 233), font=font)
    return np.concatenate([image, np.asarray(strip)])
