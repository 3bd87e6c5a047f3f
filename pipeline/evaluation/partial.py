"""Values per clip that are computed shard by shard, kept beside a run until all are there.

A shard's values are written, and then its mark. Whoever comes back after a process was killed goes
on with the shards that have none.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.errors import StoreError, reason_of
from pipeline.storage.files import delete_tree
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.objects import CHECKED, n_objects
from pipeline.store.opening import DAMAGE
from pipeline.store.schema import StoreLayout

_OF = "of"
_FORMAT = {"format": 2}
"""Part of what a partial is of: before, objects that are all NaN weren't written, and would be
taken for lost."""
_DONE = "done"
_REMEDY = "--overwrite begins anew"


class PartialMetrics:
    """Columns of a run's rows, float64, of which some shards are there.

    Parameters
    ----------
    url
        Where they are kept.
    of
        What they are values of, as JSON has it; those of anything else that are found there are
        deleted.
    columns
        Sizes behind the rows, by name.
    layout
        Of the run.
    before_writing
        Is called before anything is written, and raises where that isn't to be.

    Raises
    ------
    StoreError
        If the storage refuses, here and in every method.
    """

    def __init__(
        self,
        url: str,
        of: Mapping[str, Any],
        columns: Mapping[str, tuple[int, ...]],
        layout: StoreLayout,
        before_writing: Callable[[], None],
    ) -> None:
        self._url, self._layout, self._before_writing = url, layout, before_writing
        self._of, self._columns = {**of, **_FORMAT}, dict(columns)
        self._group: Any = None
        self._done: NDArray[np.bool_] = np.zeros(layout.n_shards, np.bool_)
        try:
            found: Any = zarr.open_group(zarr_location(url), mode="r+")
            if found.attrs.get(_OF) == self._of and set(found.array_keys()) == {*columns, _DONE}:
                self._done = np.asarray(found[_DONE][:], np.bool_)
                self._group = found
        except DAMAGE:
            # Nothing is there, or what was cut off as it was begun.
            pass

    @property
    def pending(self) -> list[int]:
        """Shards whose values aren't there yet."""
        return np.flatnonzero(~self._done).tolist()

    def write(self, shard: int, values: Mapping[str, NDArray[np.float64]]) -> None:
        """Write the values of a shard's rows, then its mark."""
        self._before_writing()
        rows = self._layout.shard_rows(shard)
        try:
            group = self._created()
            for name in self._columns:
                # Also where all is NaN, so that an object that isn't there is known to be lost.
                array = group[name].with_config({"write_empty_chunks": True})
                array[rows.start : rows.stop] = values[name]
            group[_DONE][shard] = True
        except OSError as error:
            raise StoreError(f"can't write {self._url}: {reason_of(error)}") from error
        self._done[shard] = True

    def read(self, name: str) -> NDArray[np.float64]:
        """Read a column: (rows, ...); NaN where a shard isn't there."""
        if self._group is None:
            return np.full((self._layout.n_rows, *self._columns[name]), np.nan)
        try:
            array = self._group[name]
            n_there = n_objects(array)
            values = np.asarray(array[:], np.float64)
        except OSError as error:
            # The storage failed: what is there may be whole.
            raise StoreError(f"can't read {self._url}: {reason_of(error)}") from error
        except DAMAGE as error:
            raise StoreError(f"{self._url} can't be read: {reason_of(error)}; {_REMEDY}") from error
        n_written = int(self._done.sum())
        if n_there is not None and n_there < n_written:
            raise StoreError(
                f"{self._url} has lost objects: {name} has {n_there} of {n_written}; {_REMEDY}"
            )
        return values

    def discard(self) -> None:
        """Delete all of it."""
        try:
            delete_tree(self._url)
        except OSError as error:
            raise StoreError(f"can't delete {self._url}: {reason_of(error)}") from error
        self._group, self._done = None, np.zeros(self._layout.n_shards, np.bool_)

    def _created(self) -> Any:
        """Give the group, created on first use: nothing is written before there is something."""
        if self._group is None:
            layout = self._layout
            group: Any = zarr.create_group(zarr_location(self._url), overwrite=True)
            for name, sizes in self._columns.items():
                group.create_array(
                    name,
                    shape=(layout.n_rows, *sizes),
                    chunks=(min(layout.rows_per_shard, layout.n_rows), *sizes),
                    dtype="float64",
                    fill_value=float("nan"),
                    compressors=CHECKED,
                )
            group.create_array(
                _DONE, shape=(layout.n_shards,), chunks=(1,), dtype="bool", fill_value=False
            )
            # Last, so that what was cut off before isn't taken for whole.
            group.attrs[_OF] = self._of
            self._group = group
        return self._group
