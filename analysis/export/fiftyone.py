"""A dataset on disk that FiftyOne imports: clips, answers, scores, and a heatmap for each frame.

The format is FiftyOne's own (`fo.types.FiftyOneDataset`) in its legacy JSON form, which FiftyOne
still reads and which asks for no MongoDB: ``metadata.json``, ``samples.json``, and a file of
``frames/`` for each clip. Heatmaps are in these files themselves. FiftyOne would also take the path
of a picture, but it resolves relative paths of samples alone, not of frames, and a folder with
absolute paths can't be moved.
"""

import base64
import io
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from analysis.audit.audit import read_findings
from analysis.clip_scores import SCORES
from analysis.export.clips import selected_clips
from analysis.page.examples import ClipSource
from analysis.runs import class_names, record_of
from analysis.score_table import scores
from pipeline.clips.fetch import check_same_file, fetch_clip, is_on_disk, locate
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.recording import open_recording
from pipeline.clips.timeline import ContradictionError
from pipeline.errors import ConfigError, ManifestError, StoreError
from pipeline.status import DecodeError
from pipeline.storage.files import write_bytes

Heatmaps = Literal["every-frame", "seen-frames"]
NO_HEATMAPS = "no heatmaps"
"""Tag of a clip whose file can't be read any more, so that nobody knows where its crop lay."""

_CELLS_PER_PATCH = 4
"""Cells of a heatmap along a patch's side: a crop's edge is met to within a quarter of a patch."""
_ROWS_AT_ONCE = 256
_SCORED = (*SCORES, "margin", "label_probability", "class_agreement", "dataset_agreement")


@dataclass(frozen=True)
class Written:
    """What was written for FiftyOne."""

    n_clips: int
    n_without_attribution: int
    """Chosen clips that have none and are left out."""
    n_without_heatmaps: int
    """Clips that are in, whose file can't be read any more."""


def write_fiftyone(
    run_url: str,
    out: str,
    *,
    where: str | None = None,
    rows: Sequence[int] = (),
    heatmaps: Heatmaps = "every-frame",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write a folder for ``fo.Dataset.from_dir(out, dataset_type=fo.types.FiftyOneDataset)``.

    A sample is a clip of the run, at the absolute path of its file, or, where the dataset's root is
    no local folder, at its path below the root, for ``rel_dir=``. It has ``ground_truth`` and
    ``prediction`` with its confidence, the run's scores as numbers, and as tags its split, right or
    wrong, and the kinds of findings that show it. Frames count from 1. A frame has ``attribution``,
    a heatmap of A = S * T over the largest value in the clip, as 0 to 255, placed where the model's
    crop lay in the frame; its ``seen`` says whether the model saw this very frame. ``temporal`` is
    T in times uniform.

    Parameters
    ----------
    where, rows
        As in `analysis.export.clips.selected_clips`.
    heatmaps
        For every frame between the first and the last that the model saw, each that of the nearest
        one; or only for those.
    progress
        Is told how many clips were written, and of how many.

    Raises
    ------
    ConfigError
        When nothing is chosen, or the run's clips aren't known.
    StoreError
        When there is no run, or ``where`` is given and no table of scores that fits it.
    """
    ds, left_out = selected_clips(run_url, where=where, rows=rows)
    try:
        source = ClipSource.of_run(ds)
    except ManifestError as error:
        raise ConfigError(f"what: FiftyOne needs the run's clips, and {error}") from error
    # Without a table of scores there are none, as there may be no findings.
    table = _scores(run_url)
    kinds = _kinds_of_findings(run_url)
    samples: list[dict[str, Any]] = []
    n_unplaced = 0
    n_clips = ds.sizes["clip"]
    for start in range(0, n_clips, _ROWS_AT_ONCE):
        part = ds.isel(clip=slice(start, start + _ROWS_AT_ONCE)).compute()
        records = source.records(part["row"].values.tolist())
        names = {name: class_names(part, name).values for name in ("label", "prediction")}
        for at, row in enumerate(part["row"].values.tolist()):
            sample = _sample(part.isel(clip=at), row, records[row], source)
            sample |= _answers(part.isel(clip=at), *(str(names[n][at]) for n in names))
            sample |= {} if table is None else _numbers(table.loc[row])
            sample["tags"] = _tags(records[row], names["label"][at], names["prediction"][at])
            sample["tags"] += sorted(kinds.get(row, ()))
            frames = _frames(part.isel(clip=at), row, records[row], source, heatmaps)
            if frames is None:
                sample["tags"].append(NO_HEATMAPS)
                n_unplaced += 1
            _write_json(f"{out}/{sample['frames']}", {"frames": frames or {}})
            samples.append(sample)
            progress(len(samples), n_clips)
    _write_json(f"{out}/samples.json", {"samples": samples})
    # Last, so that a folder that has it is whole.
    _write_json(f"{out}/metadata.json", _metadata(ds, run_url))
    return Written(n_clips, left_out, n_unplaced)


def heatmap(
    joint: NDArray[np.floating], highest: float, preprocessing: Preprocessing, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Place the map of one time step in the whole frame: 0 outside of what the model saw.

    Parameters
    ----------
    joint
        (y, x), A of the time step.
    highest
        Value that becomes 255.
    preprocessing
        How the model's input was cut out of the frame.
    size
        (height, width) of the frame in pixels.

    Returns
    -------
    (height, width) uint8, in cells of about a quarter of a patch's side, of the frame's shape
    """
    left, top, right, bottom = preprocessing.crop_box(*size)
    whole = preprocessing.resized_size(*size)
    cells = []
    for low, high, length, patches in (
        (top, bottom, whole[0], joint.shape[0]),
        (left, right, whole[1], joint.shape[1]),
    ):
        n_cells = max(1, round(_CELLS_PER_PATCH * patches * length / (high - low)))
        middle = (np.arange(n_cells) + 0.5) * length / n_cells
        cells.append(np.floor((middle - low) / (high - low) * patches).astype(int))
    inside = [(at >= 0) & (at < n) for at, n in zip(cells, joint.shape, strict=True)]
    levels = np.rint(255 * np.clip(joint / highest, 0, 1)).astype(np.uint8)
    rows, columns = (np.clip(at, 0, n - 1) for at, n in zip(cells, joint.shape, strict=True))
    placed: NDArray[np.uint8] = levels[np.ix_(rows, columns)]
    placed[~np.outer(*inside)] = 0
    return placed


def nearest_seen(frame_index: NDArray[np.integer]) -> dict[int, int]:
    """Give each frame from the first to the last that the model saw its nearest such one.

    Parameters
    ----------
    frame_index
        (frames,), in increasing order.

    Returns
    -------
    Positions in ``frame_index`` by frame; of two that are as near, the earlier one
    """
    seen = frame_index.tolist()
    nearest = {int(seen[0]): 0}
    for position, (first, second) in enumerate(pairwise(seen)):
        for frame in range(first + 1, second + 1):
            nearest[frame] = position if frame - first <= second - frame else position + 1
    return nearest


def _frames(
    clip: xr.Dataset,
    row: int,
    record: dict[str, Any],
    source: ClipSource,
    heatmaps: Heatmaps,
) -> dict[str, dict[str, Any]] | None:
    """Labels of a clip's frames by frame number; None if its file can't be read any more."""
    try:
        data = fetch_clip(source.manifest.root, record["path"], last_read=source.last_read)
        if "clip_digest" in clip:
            check_same_file(data, clip["clip_digest"].values.tobytes())
        size = _frame_size(data, source)
    except (DecodeError, ContradictionError, OSError, ValueError):
        return None
    where = clip["spatial"].values.astype(np.float64)
    when = clip["temporal"].values.astype(np.float64)
    joint = where * when[:, None, None]
    preprocessing = source.views.of(row).preprocessing
    maps = [_binary(heatmap(step, joint.max(), preprocessing, size)) for step in joint]
    index = clip["frame_index"].values
    per_step = len(index) // len(when)
    nearest = nearest_seen(index)
    seen = set(index.tolist())
    if heatmaps == "seen-frames":
        nearest = {frame: position for frame, position in nearest.items() if frame in seen}
    return {
        str(frame + 1): {
            "frame_number": frame + 1,
            "attribution": {
                "_cls": "Heatmap",
                "tags": [],
                "map": maps[position // per_step],
                "seen": frame in seen,
            },
            "temporal": float(when[position // per_step] * len(when)),
        }
        for frame, position in nearest.items()
    }


def _frame_size(data: bytes, source: ClipSource) -> tuple[int, int]:
    """Height and width of a file's frames, turned upright, as the run has read them."""
    recording = open_recording(data, source.decoder)
    try:
        picture = next(iter(recording.frames_at([0])))
    except ContradictionError:
        recording.count()
        picture = next(iter(recording.frames_at([0])))
    height, width, _ = picture.shape
    return height, width


def _binary(values: NDArray[np.uint8]) -> dict[str, Any]:
    """Write an array as FiftyOne's ``ArrayField`` has it: ``.npy``, deflated, as extended JSON."""
    written = io.BytesIO()
    np.save(written, values, allow_pickle=False)
    text = base64.b64encode(zlib.compress(written.getvalue())).decode("ascii")
    return {"$binary": {"base64": text, "subType": "00"}}


def _sample(
    clip: xr.Dataset, row: int, record: dict[str, Any], source: ClipSource
) -> dict[str, Any]:
    return {
        "filepath": _filepath(source.manifest.root, record["path"]),
        "_media_type": "video",
        "row": row,
        "video_id": str(clip["video_id"].values),
        "frames": f"frames/{row:08d}.json",
    }


def _filepath(root: str, path: str) -> str:
    return locate(root, path)[1] if is_on_disk(root) else path


def _answers(clip: xr.Dataset, label: str, prediction: str) -> dict[str, Any]:
    answers: dict[str, Any] = {"prediction": {"_cls": "Classification", "tags": []}}
    answers["prediction"]["label"] = prediction
    if np.isfinite(probability := float(clip["probability"].values)):
        answers["prediction"]["confidence"] = probability
    if label:
        answers["ground_truth"] = {"_cls": "Classification", "tags": [], "label": label}
    return answers


def _numbers(scored: "pd.Series[Any]") -> dict[str, float]:
    """Scores that the clip has: FiftyOne leaves what is missing out."""
    values = {name: float(scored[name]) for name in _SCORED if name in scored}
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _tags(record: dict[str, Any], label: str, prediction: str) -> list[str]:
    tags = [str(record["split"])] if record.get("split") else []
    if label:
        tags.append("right" if label == prediction else "wrong")
    return tags


def _scores(run_url: str) -> pd.DataFrame | None:
    try:
        return scores(run_url, make=False)
    except StoreError:
        return None


def _kinds_of_findings(run_url: str) -> dict[int, set[str]]:
    """Kinds of the findings of which a clip is an example, by row."""
    kinds: dict[int, set[str]] = {}
    try:
        found = read_findings(run_url)
    except StoreError:
        return kinds
    for finding in found:
        for example in finding.examples:
            kinds.setdefault(example.row, set()).add(finding.kind)
    return kinds


def _metadata(ds: xr.Dataset, run_url: str) -> dict[str, Any]:
    record = record_of(ds)
    return {
        "name": run_url.rstrip("/").rpartition("/")[2] or "run",
        "media_type": "video",
        "info": {
            "description": f"Attributions of {record.model.name} by {record.method_name}",
            "default_classes": list(record.class_names),
            "method": record.method_name,
            "class_specific": record.class_specific,
        },
    }


def _write_json(url: str, value: dict[str, Any]) -> None:
    # In ASCII: FiftyOne reads files in whatever encoding its platform has.
    write_bytes(url, json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii"))
