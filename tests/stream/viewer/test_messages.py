"""What goes over the WebSocket says what the engine said."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from pipeline.stream.viewer import messages
from pipeline.stream.viewer.hysteresis import ShownClass
from pipeline.stream.viewer.overlay import levels_of
from tests.stream.viewer.feeds import GRID, HOSTILE, explained, picture, status

SHOWN = ShownClass("wave", 0.7, None)


def test_a_window_goes_over_whole():
    window = explained("camera", 30, peak=(2, 5))
    message = json.loads(messages.with_age(messages.window_body(3, window, SHOWN), 1.2345))
    assert (message["kind"], message["stream"], message["window"]) == ("window", 3, 30)
    assert message["age_s"] == pytest.approx(1.2345, abs=1e-3)
    assert (message["start_s"], message["end_s"]) == (30, 32)
    levels = np.frombuffer(base64.b64decode(message["levels"]), np.uint8).reshape(GRID) / 255
    np.testing.assert_allclose(levels, levels_of(window.spatial, window.temporal), atol=0.5 / 255)
    np.testing.assert_allclose(message["share"], window.temporal, atol=1e-5)
    peak = message["peak"]
    assert (peak["row"], peak["column"]) == (2, 5)
    assert peak["step"] == window.temporal.argmax() or window.spatial[:, 2, 5].std() > 0
    assert message["shown"] == {"label": "wave", "probability": 0.7, "leading": None}
    assert len(messages.window_body(3, window, SHOWN)) < 4000


def test_milliseconds_of_a_long_stream_are_kept():
    window = explained("camera", 1, hop_s=5_000_000.125)
    assert json.loads(messages.window_body(0, window, SHOWN))["start_s"] == 5_000_000.125


def test_a_map_that_is_not_finite_is_drawn_as_nothing():
    window = explained("camera")
    window.spatial[:] = np.nan
    message = json.loads(messages.window_body(0, window, SHOWN))
    assert set(base64.b64decode(message["levels"])) == {0}


def test_a_picture_has_its_stream_and_its_time():
    sent = messages.picture_bytes(7, picture("camera", 12.5, height=90, width=160))
    assert np.frombuffer(sent[:4], "<u4")[0] == 7
    assert np.frombuffer(sent[4:12], "<f8")[0] == 12.5
    decoded = np.asarray(Image.open(io.BytesIO(sent[12:])), np.int64)
    assert decoded.shape == (90, 160, 3)
    assert np.abs(decoded - picture("camera", 12.5, height=90, width=160).image).mean() < 4


def test_states_alarms_and_names_are_plain_json():
    told = json.loads(messages.status_text(1, status("camera", "lost", HOSTILE[0], windows=9)))
    assert (told["state"], told["reason"], told["windows"]) == ("lost", HOSTILE[0], 9)
    event = {"effect": np.float32(0.5), "before": np.arange(2), "p": float("inf"), "at": {1, 2}}
    assert json.loads(messages.alarms_text([event]))["alarms"] == [
        {"effect": 0.5, "before": [0, 1], "p": None, "at": "{1, 2}"}
    ]
    assert json.loads(messages.hello(HOSTILE))["streams"] == list(HOSTILE)
