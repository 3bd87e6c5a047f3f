"""MJPEG for plain players: the pictures, with the map of their own moment burnt in."""

import asyncio
import io
import time
from itertools import islice

import av
import numpy as np
from PIL import Image

from pipeline.stream.viewer.hub import Hub
from pipeline.stream.viewer.mjpeg import mjpeg_parts
from tests.stream.viewer.feeds import HOSTILE, explained, picture
from tests.stream.viewer.serving import first_parts, served

CAPTION = 22
"""Height of the line below."""


def decoded(part):
    return np.asarray(Image.open(io.BytesIO(part)), np.int64)


def test_before_the_first_window_the_picture_is_plain():
    with served("camera") as running:
        running.viewer.picture(picture("camera"))
        shown = decoded(first_parts(running, "/mjpeg/camera", 1)[0])
    assert shown.shape == (180 + CAPTION, 320, 3)
    assert np.abs(shown[:180] - picture("camera").image).mean() < 4
    assert shown[181:].max() > 150, "there is no caption"


def test_the_overlay_is_burnt_in_where_attention_is():
    with served("camera") as running:
        image = np.full((140, 140, 3), 30, np.uint8)
        plain = picture("camera")
        running.viewer.picture(type(plain)("camera", 1.5, image))
        running.viewer.shown(explained("camera", 0, peak=(5, 1)))
        # The picture comes at once; the window may take a turn of the loop.
        shown = decoded(first_parts(running, "/mjpeg/camera", 3)[-1])[:140]
    change = np.abs(shown - 30).sum(axis=-1)
    row, column = np.unravel_index(change.argmax(), change.shape)
    assert (row // 20, column // 20) == (5, 1)
    assert change[100:120, 20:40].mean() > 5 * change[:20, 120:].mean()


def test_a_player_opens_it():
    with served(HOSTILE[2]) as running:
        for tick in range(3):
            running.viewer.picture(picture(HOSTILE[2], tick / 10))
        running.viewer.shown(explained(HOSTILE[2]))
        from pipeline.stream.viewer.server import mjpeg_path

        url = running.url.rstrip("/") + mjpeg_path(HOSTILE[2])
        began = time.monotonic()
        with av.open(url, format="mpjpeg", timeout=20) as container:
            frame = next(container.decode(video=0))
        assert (frame.width, frame.height) == (320, 180 + CAPTION)
        assert time.monotonic() - began < 20


def test_what_is_sent_while_there_is_no_picture_is_no_matter_to_a_player():
    async def sent():
        hub = Hub(["camera"])
        hub.attach(asyncio.get_running_loop())
        parts = mjpeg_parts(hub, 0, repeat_s=0.0)
        given = [await anext(parts) for _ in range(4)]
        hub.picture(picture("camera"))
        while sum(b"image/jpeg" in part for part in given) < 4:
            given.append(await anext(parts))
        await parts.aclose()
        return given

    parts = asyncio.run(sent())
    assert parts[0] == b"--frame\r\n"
    assert parts[1:4] == [parts[1]] * 3
    with av.open(io.BytesIO(b"".join(parts)), format="mpjpeg") as container:
        # Behind the fourth it waits for another.
        frames = list(islice(container.decode(video=0), 4))
    assert {(frame.width, frame.height) for frame in frames} == {(320, 180 + CAPTION)}
