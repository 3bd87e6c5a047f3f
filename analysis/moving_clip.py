"""A clip that moves in a notebook: its attribution over the playing frames."""

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from analysis.page.clips import levels_of
from analysis.page.examples import ClipSource
from analysis.page.pictures import palette
from analysis.runs import class_names
from pipeline.errors import ManifestError, StorageError, StoreError
from pipeline.status import DecodeError, Status

MAX_BYTES = 100_000
_SIDE = 320
_OPACITY = 0.85
_QUALITIES = (75, 55, 35, 15)
_USED = (
    *("status", "video_id", "label", "prediction", "probability"),
    *("frame_index", "clip_digest", "spatial", "temporal"),
)


@dataclass(frozen=True)
class MovingClip:
    """An animated WebP picture; a notebook shows it with its caption."""

    webp: bytes
    caption: str
    note: str | None = None
    """Why frames aren't shown, where they aren't."""

    def save(self, path: str | Path) -> None:
        """Write the picture into a file."""
        Path(path).write_bytes(self.webp)

    def _repr_html_(self) -> str:
        source = base64.b64encode(self.webp).decode("ascii")
        note = f"<br><small>{html.escape(self.note)}</small>" if self.note else ""
        caption = html.escape(self.caption)
        return (
            f'<figure><img src="data:image/webp;base64,{source}" alt="{caption}">'
            f"<figcaption>{caption}{note}</figcaption></figure>"
        )


def show_clip(ds: xr.Dataset, row: int, *, seconds: float = 4.0) -> MovingClip:
    """Show a clip under its attribution, as a picture that moves.

    Parameters
    ----------
    ds
        A run from `open_run`, or a selection of it that has the clip.
    row
        The clip's row of the run: a label of ``clip``, as in the index of `scores`.
    seconds
        How long it plays before it starts again.

    Returns
    -------
    MovingClip, of less than 100 kB; of the map alone where its frames can't be read any more

    Raises
    ------
    StoreError
        When the dataset doesn't have the clip, or the clip has no attribution.
    """
    if row not in ds.indexes["clip"]:
        raise StoreError(f"the dataset has no clip {row}: expected a label of its dimension clip")
    # Not `ds[[...]]`, which loses the coordinates of classes.
    clip = ds.drop_vars([name for name in ds.data_vars if name not in _USED])
    clip = clip.sel(clip=[row]).compute()
    status = int(clip["status"].values[0])
    if status != Status.OK:
        label = Status(status).label
        raise StoreError(f"clip {row} has no attribution: its status is {label}, expected ok")
    where = clip["spatial"].values[0].astype(np.float64)
    when = clip["temporal"].values[0].astype(np.float64)
    frames, note = _frames(ds, clip, row)
    caption = f"{clip['video_id'].values[0]}: {_answer(clip)}"
    if frames is None:
        height, width = where.shape[1:]
        scale = max(1, _SIDE // max(height, width))
        frames = np.zeros((len(where), height * scale, width * scale, 3), np.uint8)
    return MovingClip(animation(overlay(frames, where, when), seconds), caption, note)


def overlay(
    frames: NDArray[np.uint8], where: NDArray[np.float64], when: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Lay an attribution over its frames: colour and opacity both follow its level.

    Parameters
    ----------
    frames
        (time, height, width, 3) uint8.
    where
        (time, y, x), S; its grid covers the frame.
    when
        (time,), T.

    Returns
    -------
    (time, height, width, 3) uint8
    """
    height, width = frames.shape[1:3]
    levels, _, _ = levels_of(where, when)
    colors = np.frombuffer(palette(), np.uint8).reshape(256, 3)
    blended = np.empty_like(frames)
    for step, patches in enumerate(levels.astype(np.float32)):
        enlarged = Image.fromarray(patches).resize((width, height), Image.Resampling.BILINEAR)
        level = np.clip(np.asarray(enlarged), 0, 1)
        opacity = _OPACITY * level[..., None]
        color = colors[(255 * level).round().astype(np.uint8)]
        blended[step] = (frames[step] * (1 - opacity) + color * opacity).round()
    return blended


def animation(frames: NDArray[np.uint8], seconds: float) -> bytes:
    """Write frames (time, height, width, 3) as an animated WebP of `MAX_BYTES` at most."""
    side = min(_SIDE, max(frames.shape[1:3]))
    while True:
        scale = side / max(frames.shape[1:3])
        size = max(1, round(frames.shape[2] * scale)), max(1, round(frames.shape[1] * scale))
        images = [Image.fromarray(frame).resize(size) for frame in frames]
        for quality in _QUALITIES:
            written = io.BytesIO()
            images[0].save(
                written,
                format="webp",
                save_all=True,
                append_images=images[1:],
                duration=max(20, round(1000 * seconds / len(images))),
                loop=0,
                quality=quality,
            )
            if written.tell() <= MAX_BYTES:
                return written.getvalue()
        side = max(1, side * 3 // 4)


def _frames(
    ds: xr.Dataset, clip: xr.Dataset, row: int
) -> tuple[NDArray[np.uint8] | None, str | None]:
    """Give the frames that the model saw, one for each time step, or the reason why not."""
    try:
        source = ClipSource.of_run(ds)
        record = source.records([row])[row]
        frame_index = clip["frame_index"].values[0]
        digest = clip["clip_digest"].values[0].tobytes() if "clip_digest" in clip else None
        frames = source.frames(row, record["path"], frame_index, source.segment(record), digest)
    except (ManifestError, DecodeError, StorageError, OSError, ValueError) as error:
        return None, f"frames aren't shown: {error}"
    return frames[:: len(frames) // clip.sizes["time"]], None


def _answer(clip: xr.Dataset) -> str:
    label, prediction = (str(class_names(clip, n).values[0]) for n in ("label", "prediction"))
    probability = float(clip["probability"].values[0])
    answer = f"{prediction} ({probability:.0%})"
    if not label:
        return answer
    return f"right, {answer}" if label == prediction else f"wrong, {label} taken for {answer}"
