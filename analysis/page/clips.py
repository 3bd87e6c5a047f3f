"""Clips as the page shows them: their answer, their attribution, and their frames."""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.measured_columns import MEASURED
from analysis.page.examples import ClipSource
from analysis.page.folder import PageFolder
from analysis.page.frame_strip import frame_strip
from pipeline.errors import StorageError
from pipeline.status import DecodeError
from pipeline.store.opening import Store

_ROWS_AT_ONCE = 256
_SCALE = (0.02, 0.99)

_SHOWN_SCORES = (
    *("entropy", "peak_mass", "border_mass", "center_mass", "movement", "stillness"),
    *("class_agreement", "dataset_agreement"),
    *MEASURED,
)


@dataclass(frozen=True)
class Attributions:
    """Attributions of some rows of a run, read row by row."""

    store: Store

    def read(self, rows: NDArray[np.int64]) -> Iterator[dict[str, NDArray[Any]]]:
        """Give ``spatial``, ``temporal`` and what is known of frames, for each row in turn."""
        # Stores made before there were times of frames lack them.
        optional = [n for n in ("frame_time", "clip_digest") if n in self.store.group]
        names = ("spatial", "temporal", "frame_index", *optional)
        arrays: dict[str, Any] = {name: self.store.array(name) for name in names}
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            read = {name: array.oindex[part] for name, array in arrays.items()}
            for position in range(len(part)):
                yield {name: values[position] for name, values in read.items()}


def attribution_data(spatial: NDArray[Any], temporal: NDArray[Any]) -> dict[str, Any]:
    """Give an attribution as text, a byte a patch: 255 times its level (`levels_of`).

    Parameters
    ----------
    spatial
        (time, y, x), S: sums to 1 in each time step.
    temporal
        (time,), T: sums to 1.

    Returns
    -------
    ``grid``; ``map``, base64 of (time, y, x) uint8; ``low`` and ``high``, the ends of its scale,
    and ``range``, how far S lies apart, all in times uniform within a time step; ``top``, the
    largest A = S * T in times uniform; ``peak``, its time step, row and column; ``share``, T in
    times uniform
    """
    where = spatial.astype(np.float64) * spatial[0].size
    when = temporal.astype(np.float64) * len(temporal)
    levels, low, high = levels_of(where, when)
    joint = where * when[:, None, None]
    peak = np.unravel_index(int(joint.argmax()), joint.shape)
    return {
        "grid": list(joint.shape),
        "map": base64.b64encode((255 * levels).round().astype(np.uint8).tobytes()).decode("ascii"),
        "low": low,
        "high": high,
        "range": float(np.ptp(where)),
        "top": float(joint.max()),
        "peak": [int(place) for place in peak],
        "share": when,
    }


def levels_of(
    where: NDArray[np.float64], when: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, float]:
    """Levels in [0, 1] to draw an attribution by, on a scale by the clip's own quantiles.

    A level is the square root of (S - low) / (high - low) and of T over its largest value, with
    ``low`` and ``high`` the quantiles of S at 2 and 99 %: neither a logo, nor a map that is nearly
    uniform, nor a time step that has most leaves the clip without contrast.

    Parameters
    ----------
    where
        (time, y, x), S in any unit.
    when
        (time,), T in any unit.

    Returns
    -------
    Levels (time, y, x), and the values of S at the ends of the scale
    """
    low, high = (float(value) for value in np.quantile(where, _SCALE))
    span = high - low if high > low else 1.0
    of_place = np.clip((where - low) / span, 0, 1)
    return np.sqrt(of_place * (when / when.max())[:, None, None]), low, high


def clip_records(
    table: pd.DataFrame,
    chosen: Mapping[int, Sequence[str]],
    store: Store,
    *,
    source: ClipSource | None,
    with_frames: frozenset[int],
    folder: PageFolder,
    done: Callable[[], None],
) -> list[dict[str, Any]]:
    """Describe clips, and draw the frames of those that are to have them.

    Parameters
    ----------
    table
        From `analysis.scores`; its index is the run's row.
    chosen
        Reasons by row.
    source
        Where frames are; None to do without.
    with_frames
        Rows whose frames are shown.
    done
        Is called after each clip.
    """
    rows = np.array(sorted(chosen), np.int64)
    rows_of_table = table.loc[rows]
    manifest = source.records([row for row in rows if row in with_frames]) if source else {}
    records = []
    for row, (_, scored), arrays in zip(
        rows.tolist(), rows_of_table.iterrows(), Attributions(store).read(rows), strict=True
    ):
        record = _record(row, scored, chosen[row])
        record |= attribution_data(arrays["spatial"], arrays["temporal"])
        n_times = len(arrays["temporal"])
        per_step = len(arrays["frame_index"]) // n_times
        record["frames"] = arrays["frame_index"][::per_step]
        if "frame_time" in arrays:
            record["seconds"] = arrays["frame_time"][::per_step].astype(np.float64)
        if source and row in with_frames and row in manifest:
            record |= _frames(row, manifest[row], arrays, source, per_step, folder)
        records.append(record)
        done()
    return records


def _record(row: int, scored: pd.Series, reasons: Sequence[str]) -> dict[str, Any]:
    def text(name: str) -> str | None:
        value = scored.get(name)
        return None if value is None or pd.isna(value) else str(value)

    def number(name: str) -> float:
        return float(scored[name])

    correct = scored["correct"]
    return {
        "row": row,
        "video": text("video_id"),
        "path": text("path"),
        "split": text("split"),
        "label": text("label"),
        "prediction": text("prediction"),
        "probability": number("probability"),
        "labelProbability": number("label_probability"),
        "correct": None if pd.isna(correct) else bool(correct),
        "why": list(reasons),
        "scores": {name: number(name) for name in _SHOWN_SCORES if name in scored},
    }


def _frames(
    row: int,
    manifest: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    source: ClipSource,
    per_step: int,
    folder: PageFolder,
) -> dict[str, Any]:
    digest = arrays["clip_digest"].tobytes() if "clip_digest" in arrays else None
    try:
        frames = source.frames(
            row, manifest["path"], arrays["frame_index"], source.segment(manifest), digest
        )
    except (DecodeError, StorageError, OSError, ValueError) as error:
        return {"note": str(error)}
    # A time step of a model with tubelets covers several frames; the first stands for them.
    picture, width, height = frame_strip(frames[::per_step])
    folder.write(f"images/clip-{row}.webp", picture)
    return {"picture": f"images/clip-{row}.webp", "size": [width, height]}
