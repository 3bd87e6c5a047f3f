"""What goes over the WebSocket: JSON as text, and pictures as JPEG behind a short header.

No message is more than a few kB, and none goes from a viewer to the server.
"""

import base64
import io
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.storage.plain_json import plain
from pipeline.stream.explained import Explained, Picture, StreamStatus
from pipeline.stream.viewer.hysteresis import ShownClass
from pipeline.stream.viewer.overlay import OPACITY, levels_of, palette, step_times

N_LABELS = 5
"""Of the best labels, so many are shown."""
_DIGITS = 10
"""Significant digits: a stream's clock keeps its milliseconds for months."""
_JPEG_QUALITY = 72
_PICTURE = struct.Struct("<Id")
"""Header of a picture: the stream's index, and its time in s of the stream's clock."""


def hello(streams: Sequence[str]) -> str:
    """Greet a viewer: names of the streams, by whose index all else names them, and the colours."""
    return as_json(
        {
            "kind": "hello",
            "streams": list(streams),
            "palette": base64.b64encode(palette().tobytes()).decode("ascii"),
            "opacity": OPACITY,
        }
    )


def window_body(stream: int, explained: Explained, shown: ShownClass) -> str:
    """Describe an explained window, without its age, which `with_age` adds when it is sent."""
    grid = explained.spatial.shape
    levels = (255 * levels_of(explained.spatial, explained.temporal)).round().astype(np.uint8)
    joint = np.nan_to_num(explained.spatial * explained.temporal[:, None, None])
    step, row, column = (int(i) for i in np.unravel_index(joint.argmax(), grid))
    return as_json(
        {
            "kind": "window",
            "stream": stream,
            "window": explained.window,
            "start_s": explained.start_s,
            "end_s": explained.end_s,
            "step_s": step_times(explained),
            "grid": list(grid),
            "levels": base64.b64encode(levels.tobytes()).decode("ascii"),
            "share": np.round(explained.temporal.astype(np.float64), 5),
            "peak": {
                "step": step,
                "row": row,
                "column": column,
                "times_uniform": float(joint[step, row, column]) * joint.size,
            },
            "top": [[label, probability] for label, probability in explained.top[:N_LABELS]],
            "shown": {
                "label": shown.label,
                "probability": shown.probability,
                "leading": shown.leading,
            },
            "n_skipped": explained.n_skipped,
            "n_frames_dropped": explained.n_frames_dropped,
        }
    )


def with_age(body: str, age_s: float) -> str:
    """Add the age of the newest frame in the map at the moment of sending."""
    return f'{{"age_s":{max(0.0, age_s):.3f},{body[1:]}'


def status_text(stream: int, status: StreamStatus) -> str:
    """Describe how a stream is doing."""
    return as_json(
        {
            "kind": "status",
            "stream": stream,
            "state": str(status.state),
            "reason": status.reason,
            "windows": status.windows,
            "skipped": status.skipped,
            "rate": status.rate,
        }
    )


def alarms_text(alarms: Sequence[Mapping[str, Any]]) -> str:
    """List all alarms, newest last."""
    return as_json({"kind": "alarms", "alarms": list(alarms)})


def picture_bytes(stream: int, picture: Picture) -> bytes:
    """Encode a picture for the page."""
    return _PICTURE.pack(stream, picture.time_s) + jpeg(picture.image)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode (height, width, 3) uint8 as JPEG."""
    written = io.BytesIO()
    Image.fromarray(image).save(written, format="jpeg", quality=_JPEG_QUALITY)
    return written.getvalue()


def as_json(value: Any) -> str:
    """Write plain values, arrays and their nests as JSON; what isn't finite becomes null."""
    return json.dumps(plain(value, _short), separators=(",", ":"), allow_nan=False, default=str)


def _short(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
