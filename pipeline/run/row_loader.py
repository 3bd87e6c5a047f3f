"""Loads rows of a run by number, to look at their clips again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.clips.columns import Columns
from pipeline.clips.views import Views
from pipeline.dataset.manifest import Manifest
from pipeline.run.steps import read_rows


@dataclass(frozen=True)
class RowLoader:
    """Loads rows, wherever they lie in the manifest."""

    manifest: Manifest
    views: Views
    load: Callable[[Columns], Columns]
    """As `pipeline.clips.loader.ClipLoader`."""

    def __call__(self, rows: Sequence[int]) -> Columns:
        """Columns of ``load`` for one row or more, in ascending order.

        Raises
        ------
        ManifestChangedError
            If the manifest has changed since the run was planned.
        """
        tables = [read_rows(self.manifest, range(row, row + 1), self.views) for row in rows]
        table = pa.concat_tables(tables)
        return self.load({name: table[name].to_numpy() for name in table.column_names})
