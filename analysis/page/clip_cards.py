"""Clips as the report shows them: examples with their attribution, and the failed ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.page import figures
from analysis.page.examples import ClipSource
from analysis.page.folder import PageFolder, Picture
from analysis.runs import joint_attribution
from pipeline.status import DecodeError, Status, failed_rows


@dataclass(frozen=True)
class ClipView:
    """One clip of a class; without a picture, ``note`` says why."""

    row: int
    video_id: str
    path: str | None
    label: str | None
    prediction: str
    probability: float
    correct: bool | None
    picture: Picture | None
    note: str | None


@dataclass(frozen=True)
class FailureView:
    """One failed clip."""

    row: int
    video_id: str
    path: str | None
    status: str
    message: str


def clip_views(
    ds: xr.Dataset, rows: Sequence[int], source: ClipSource | None, folder: PageFolder
) -> dict[int, ClipView]:
    """Describe clips of a run, and draw those whose frames can still be read.

    Parameters
    ----------
    ds
        A run from `analysis.open_run`.
    rows
        The clips; they have an attribution.
    source
        Where their frames are; None to do without pictures.

    Returns
    -------
    The clips by row
    """
    rows = sorted(rows)
    records = source.records(rows) if source else {}
    # Stores made before there were times of frames lack them.
    optional = [name for name in ("frame_time", "clip_digest") if name in ds]
    chosen = ds[["video_id", "label", "prediction", "probability", "frame_index", *optional]]
    chosen = chosen.assign(joint=joint_attribution(ds)).isel(clip=rows).compute()
    names = [str(name) for name in ds["class"].values]
    return {
        row: _clip_view(chosen.isel(clip=position), names, records.get(row), source, folder)
        for position, row in enumerate(rows)
    }


def _clip_view(
    clip: xr.Dataset,
    names: Sequence[str],
    record: Mapping[str, Any] | None,
    source: ClipSource | None,
    folder: PageFolder,
) -> ClipView:
    row, label, prediction = (int(clip[name]) for name in ("clip", "label", "prediction"))
    label_name = names[label] if label >= 0 else None
    prediction_name, probability = names[prediction], float(clip["probability"])
    title = f"label: {label_name or 'none'} · predicted: {prediction_name} ({probability:.2f})"
    picture, note = None, None
    if source and record:
        try:
            frames = source.frames(
                row,
                record["path"],
                clip["frame_index"].values,
                source.segment(record),
                clip["clip_digest"].values.tobytes() if "clip_digest" in clip else None,
            )
        except (DecodeError, OSError, ValueError) as error:
            note = str(error)
        else:
            image = _clip_image(clip, frames, title)
            alt = f"Frames of clip {row} under their attribution; {title}"
            picture = folder.add_picture(f"clip-{row}", image, alt)
    return ClipView(
        row=row,
        video_id=str(clip["video_id"].item()),
        path=record["path"] if record else None,
        label=label_name,
        prediction=prediction_name,
        probability=probability,
        correct=label == prediction if label >= 0 else None,
        picture=picture,
        note=note,
    )


def _clip_image(clip: xr.Dataset, frames: NDArray[np.uint8], title: str) -> bytes:
    # A time step of a model with tubelets covers several frames; the first stands for them.
    per_step = len(frames) // clip.sizes["time"]
    figure = figures.clip_figure(
        frames[::per_step],
        clip["joint"].values,
        frame_index=clip["frame_index"].values[::per_step],
        frame_time=clip["frame_time"].values[::per_step] if "frame_time" in clip else None,
        title=title,
    )
    return figures.figure_png(figure)


def failure_views(
    ds: xr.Dataset, status: NDArray[np.uint8], source: ClipSource | None, max_failures: int
) -> list[FailureView]:
    """Describe the first failed clips of a run whose ``status`` column is given."""
    rows = np.flatnonzero(failed_rows(status))[:max_failures]
    records = source.records(rows) if source else {}
    failed = ds[["video_id", "message"]].isel(clip=rows).compute()
    return [
        FailureView(
            row=row,
            video_id=str(video_id),
            path=records[row]["path"] if row in records else None,
            status=Status(int(status[row])).label,
            message=str(message),
        )
        for row, video_id, message in zip(
            rows.tolist(), failed["video_id"].values, failed["message"].values, strict=True
        )
    ]
