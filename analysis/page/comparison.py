"""A second run beside the page's: its classes, and its answers and maps of the same videos."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analysis.clip_scores import agreement
from analysis.page.classes import Maps, class_table, difference_of, picture_of, profile_of
from analysis.page.clips import Attributions, attribution_data
from analysis.page.run_tables import RunTables
from pipeline.errors import StoreError


@dataclass(frozen=True)
class OtherRun:
    """Another run over the same classes."""

    tables: RunTables
    maps: Maps
    row_of: pd.Series
    """Its row by video id and view, each once."""

    @classmethod
    def of(cls, tables: RunTables, page: RunTables) -> "OtherRun":
        """Take a run's tables.

        Raises
        ------
        StoreError
            When its classes are others than the page's.
        """
        theirs, ours = (list(t.statistics["class"].values) for t in (tables, page))
        if theirs != ours:
            raise StoreError(
                f"{tables.url} has {len(theirs)} classes, other ones than "
                f"the {len(ours)} of {page.url}: expected two runs over the same classes"
            )
        table = tables.table
        row_of = pd.Series(table.index, index=pd.MultiIndex.from_frame(table[["video_id", "view"]]))
        # Which of several segments of a video is meant, its id doesn't tell.
        return cls(tables, Maps.of(tables.statistics), row_of[~row_of.index.duplicated(keep=False)])

    def overview(self, page: RunTables, maps: Maps) -> dict[str, Any]:
        """Give its classes, and how far each class's mean map agrees with the page's run's."""
        tables = self.tables
        agreements = None
        if self._same_grid(maps):
            n_classes = len(maps.spatial)
            one, other = (
                m.reshape(n_classes, -1) / m[0].size for m in (maps.spatial, self.maps.spatial)
            )
            agreements = agreement(one, other)
        shared = int(
            pd.MultiIndex.from_frame(page.table[["video_id", "view"]]).isin(self.row_of.index).sum()
        )
        return {
            "classes": class_table(tables.table, tables.groups, tables.statistics, {}),
            "agreement": agreements,
            "nShared": shared,
        }

    def of_class(self, index: int, maps: Maps, seconds: Any) -> dict[str, Any] | None:
        """Give its map and profile of a class; None where it has no clip of it."""
        statistics: xr.Dataset = self.tables.statistics
        if not int(statistics["n_clips"][index]):
            return None
        spatial = self.maps.spatial[index]
        shown: dict[str, Any] = {
            "n": int(statistics["n_clips"][index]),
            "accuracy": float(statistics["accuracy"][index]),
            "entropy": float(statistics["entropy"][index]),
            "profile": profile_of(statistics, index, seconds, int(self.tables.n_videos[index])),
            **picture_of(spatial, maps if self._same_grid(maps) else self.maps),
        }
        if self._same_grid(maps) and np.isfinite(maps.spatial[index]).all():
            scale = maps.difference_scale
            shown["difference"] = difference_of(spatial, maps.spatial[index], scale)
        return shown

    def add_to(self, records: list[dict[str, Any]], views: pd.Series) -> None:
        """Add its answer and attribution to the clips of the page whose video it has, too."""
        keys = pd.MultiIndex.from_arrays(
            [[r["video"] for r in records], [int(views[r["row"]]) for r in records]]
        )
        found = self.row_of.reindex(keys).to_numpy(np.float64)
        have = np.flatnonzero(np.isfinite(found))
        rows = found[have].astype(np.int64)
        order = np.argsort(rows, kind="stable")
        answers = self.tables.table[["prediction", "probability"]]
        read = Attributions(self.tables.store).read(rows[order])
        for position, arrays in zip(have[order].tolist(), read, strict=True):
            row = int(found[position])
            prediction, probability = answers["prediction"][row], answers["probability"][row]
            records[position]["other"] = {
                "row": row,
                "prediction": str(prediction),
                "probability": float(probability),
                **attribution_data(arrays["spatial"], arrays["temporal"]),
            }

    def _same_grid(self, maps: Maps) -> bool:
        return self.maps.spatial.shape == maps.spatial.shape
