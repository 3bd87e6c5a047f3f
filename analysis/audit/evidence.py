"""What an audit looks at: a run's scores, maps and answers, one row per video and label."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from analysis.audit.finding import Example
from analysis.clip_scores import SCORES
from analysis.measured_columns import MEASURED, OF_MASKS
from analysis.reduction import row_hash
from analysis.runs import open_run, record_of
from analysis.score_table import score_run, scores, with_current_metrics
from pipeline.attribution.method import Method
from pipeline.errors import StoreError
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.run_folder import maps_url
from pipeline.store.verify import lost_attributions_error

Float32Array = NDArray[np.float32]

VECTOR_NAMES = ("pooled",)
"""Arrays of a run that may hold a vector of the model for each clip, (clip, channel)."""

_AVERAGED = (
    *SCORES,
    *("probability", "label_probability", "margin"),
    *("class_agreement", "dataset_agreement", *MEASURED, *OF_MASKS),
)


@dataclass(frozen=True)
class Evidence:
    """One row per video and label, as clips and views of a video aren't independent.

    Numbers and maps are averaged over a video's clips. So tests and intervals that assume
    independent rows are clustered by video.
    """

    table: pd.DataFrame
    """(n) rows: scores, ``row``, ``video_id``, ``path``, ``split``, ``label_index``,
    ``prediction_index``."""
    maps: Float32Array
    """(n, y * x) sum of A over time; sums to 1."""
    when: Float32Array
    """(n, time) T; sums to 1."""
    vectors: Float32Array | None
    """(n, channels) the model's own pooled vector, if the run has stored it."""
    grid: tuple[int, int, int]
    """Time steps, rows and columns of patches."""
    class_names: Sequence[str]
    method: str
    class_specific: bool
    options: Method | None = None
    """The method with all of its options; None for attributions of another tool."""
    weights: str = ""
    """Digest of the model's weights."""
    importance: Float32Array | None = None
    """(n, time) how much each time step matters to the answer, if the run has stored it
    (``method.frame_importance``); sums to 1."""

    @property
    def frame_weight(self) -> Float32Array:
        """(n, time) what each time step weighs: its importance, or T where that isn't stored."""
        return self.when if self.importance is None else self.importance

    @property
    def importance_kind(self) -> str | None:
        """How the importance of time steps was computed; None where there is none."""
        if self.importance is None:
            return None
        return "another tool's" if self.options is None else self.options.frame_importance

    @property
    def times_weigh(self) -> bool:
        """Whether T may be taken for what frames weigh; see `t_says_which_frames_matter`."""
        return t_says_which_frames_matter(self.options)

    @property
    def weighs_frames(self) -> bool:
        """Whether it is known what frames weigh, so that first and last ones can be looked at."""
        return self.importance is not None or self.times_weigh

    @property
    def label(self) -> NDArray[np.int64]:
        """(n,) class index, -1 where unknown."""
        return self.table["label_index"].to_numpy(np.int64)

    @property
    def prediction(self) -> NDArray[np.int64]:
        """(n,) class index."""
        return self.table["prediction_index"].to_numpy(np.int64)

    @property
    def groups(self) -> NDArray[np.int64]:
        """(n,) class that a row counts for: its label, or its prediction if no row has a label."""
        return self.label if (self.label >= 0).any() else self.prediction

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """(n,) whether a label is known and the prediction is no label of what the clip shows.

        A video may have several labels, each with a row: of the whole file, or of segments that
        overlap.
        """
        label, prediction = self.label, self.prediction
        wrong: NDArray[np.bool_] = (label >= 0) & (label != prediction)
        ids, paths = (self.table[name].to_numpy(object) for name in ("video_id", "path"))
        of_several = self.table["video_id"].duplicated(keep=False).to_numpy()
        if not of_several.any():
            return wrong
        row_of = {(ids[row], label[row]): row for row in np.flatnonzero(of_several)}
        start, end = _segments(self.table)
        for row in np.flatnonzero(wrong & of_several):
            other = row_of.get((ids[row], prediction[row]))
            if other is None or paths[other] != paths[row]:
                continue
            if start[row] < end[other] and start[other] < end[row]:
                wrong[row] = False
        return wrong

    def grouped(self) -> "Evidence":
        """Leave out the rows that count for no class: clips without a label beside labelled ones.

        Such clips may show any class, so they say nothing about what other classes get.
        """
        return self._part(self.groups >= 0)

    def of_clips(self) -> "Evidence":
        """Keep one row of each file or segment, whatever number of labels it has."""
        start, end = _segments(self.table)
        clip = self.table[["video_id", "path"]].assign(start=start, end=end)
        return self._part(~clip.duplicated().to_numpy())

    def _part(self, chosen: NDArray[np.bool_]) -> "Evidence":
        if chosen.all():
            return self

        def part(values: Float32Array | None) -> Float32Array | None:
            return None if values is None else values[chosen]

        return replace(
            self,
            table=self.table[chosen].reset_index(drop=True),
            maps=self.maps[chosen],
            when=self.when[chosen],
            vectors=part(self.vectors),
            importance=part(self.importance),
        )

    def score(self, name: str) -> NDArray[np.float64]:
        """(n,) the score of that name."""
        return self.table[name].to_numpy(np.float64)

    def examples(self, rows: NDArray[np.integer], most: int = 5) -> tuple[Example, ...]:
        """Take the first rows as examples."""
        chosen = self.table.iloc[rows[:most]]
        return tuple(
            Example(int(row), str(video), None if pd.isna(path) else str(path))
            for row, video, path in zip(
                chosen["row"], chosen["video_id"], chosen["path"], strict=True
            )
        )


def seed_of(*names: Any) -> int:
    """Return a seed that depends on names alone, so that an audit can be repeated exactly."""
    return zlib.crc32("\0".join(map(str, names)).encode())


def read_evidence(run_url: str) -> Evidence:
    """Read what an audit looks at; scores the run first if that hasn't been done.

    Raises
    ------
    StoreError
        When there is no run, or none of its clips is ok.
    """
    ds = open_run(run_url)
    table = with_current_metrics(scores(run_url), run_url, ds)
    status = ds["status"].values
    group = _open_maps(run_url)
    if group is None or group.attrs.get("coverage") != str(
        row_hash(np.arange(len(status)), status)
    ):
        score_run(run_url)
        group = _open_maps(run_url)
    assert group is not None
    ok = np.flatnonzero((table["status"] == "ok").to_numpy())
    if not len(ok):
        raise StoreError(f"{run_url}: no clip is ok, so there is nothing to audit")
    spatial_map: Any = group["spatial_map"]
    maps = spatial_map[:].reshape(len(table), -1).astype(np.float32)[ok]
    when = ds["temporal"].values.astype(np.float32)[ok]
    if not (np.isfinite(maps).all() and np.isfinite(when).all()):
        raise lost_attributions_error(run_url)
    stored = next((name for name in VECTOR_NAMES if name in ds), None)
    vectors = None if stored is None else ds[stored].values.astype(np.float32)[ok]
    table, importance = table.iloc[ok].reset_index(), None
    record = record_of(ds)
    options = None if record.taken_in else record.identity.method
    if "frame_importance" in ds:
        # T says when something was read, which for evidence isn't when it was shown.
        importance = ds["frame_importance"].values.astype(np.float32)[ok]
        table["first_frame_mass"], table["last_frame_mass"] = importance[:, 0], importance[:, -1]
    elif not t_says_which_frames_matter(options):
        table["first_frame_mass"] = table["last_frame_mass"] = np.nan
    _, n_times, height, width = ds["spatial"].shape
    return per_video(
        Evidence(
            table=table,
            maps=maps,
            when=when,
            vectors=vectors,
            grid=(n_times, height, width),
            class_names=list(record.class_names),
            method=record.method_name,
            class_specific=record.class_specific,
            options=options,
            weights=record.identity.model.weights,
            importance=importance,
        )
    )


def t_says_which_frames_matter(method: Method | None) -> bool:
    """Whether a method's T, or that of another tool (None), may be taken for what frames weigh.

    Evidence over time says when evidence was read, which agrees with the frames' Shapley values
    hardly at all. Attention's agrees with them somewhat, and LibraGrad's, which is of what each
    frame shows, somewhat better (`pipeline/evaluation/README.md`).
    """
    return method is None or method.name != "evidence"


def per_video(evidence: Evidence) -> Evidence:
    """Average the clips of each video and label.

    Other columns, the answer and the row among them, are those of the clip that the model is surest
    of: what is shown of a video, or tried on the model, is what was answered.
    """
    table = evidence.table
    codes, first = _groups(table)
    if len(first) == len(table):
        return evidence
    size = np.bincount(codes).astype(np.float32)

    def mean(values: Float32Array) -> Float32Array:
        total = np.zeros((len(size), *values.shape[1:]), np.float64)
        np.add.at(total, codes, values)
        average: Float32Array = (total / size[:, None]).astype(np.float32)
        return average

    surest = table["probability"].groupby(codes).idxmax().to_numpy()
    averaged = table.iloc[surest].reset_index(drop=True)
    columns = [name for name in _AVERAGED if name in table]
    means = table[columns].astype(np.float64).groupby(codes).mean()
    averaged[columns] = means.to_numpy()
    return Evidence(
        table=averaged,
        maps=mean(evidence.maps),
        when=mean(evidence.when),
        vectors=None if evidence.vectors is None else mean(evidence.vectors),
        grid=evidence.grid,
        class_names=evidence.class_names,
        method=evidence.method,
        class_specific=evidence.class_specific,
        options=evidence.options,
        weights=evidence.weights,
        importance=None if evidence.importance is None else mean(evidence.importance),
    )


def _segments(table: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and end of each row's segment in seconds, (n,) each: all of the file if unknown."""
    n = len(table)
    start, end = (
        table[name].to_numpy(np.float64) if name in table else np.full(n, np.nan)
        for name in ("start_time", "end_time")
    )
    return np.where(np.isnan(start), -np.inf, start), np.where(np.isnan(end), np.inf, end)


def _groups(table: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group of each row, and the first row of each group, in their order."""
    video, _ = pd.factorize(table["video_id"].to_numpy(object))
    pair = video.astype(np.int64) * (int(table["label_index"].max()) + 2)
    codes, values = pd.factorize(pair + table["label_index"].to_numpy(np.int64) + 1)
    _, first = np.unique(codes, return_index=True)
    assert len(values) == len(first)
    return codes.astype(np.int64), first


def _open_maps(run_url: str) -> zarr.Group | None:
    try:
        return zarr.open_group(zarr_location(maps_url(run_url)), mode="r")
    except (OSError, ValueError, zarr.errors.BaseZarrError):
        return None
