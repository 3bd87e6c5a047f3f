"""Sums, squares and histograms of numbers by group: small tables that are updated and merged.

Groups are the combinations of key columns that occur, so that no table of all pairs of classes is
made. Numbers are measured from a fixed origin near them before they are added up, so that a
variance keeps its digits. Merging adds tables: with the same order of merges, the result has the
same bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

Float64Array = NDArray[np.float64]

N_BINS = 64
"""Equal bins of the histograms on [0, 1]; a quantile is exact to half a bin."""


@dataclass(frozen=True)
class Rows:
    """Rows of a block, prepared to be summed by any number of groupings."""

    origin: Float64Array
    """(columns,) what is subtracted from the values before they are summed."""
    values: Float64Array
    """(rows, columns) value - origin; 0 for an absent optional value."""
    squares: Float64Array
    """(rows, columns)."""
    absent: NDArray[np.bool_]
    """(rows, columns with a histogram) whether an optional value is absent."""
    bins: NDArray[np.int8]
    """(rows, columns with a histogram) bin of each value; -1 for NaN."""

    @classmethod
    def of(
        cls,
        values: Float64Array,
        origin: Float64Array,
        *,
        n_histograms: int = 0,
        optional: slice = slice(0),
    ) -> "Rows":
        """Prepare values (rows, columns), which are overwritten.

        Parameters
        ----------
        origin
            (columns,) a number near the values of each column.
        n_histograms
            Number of leading columns, with values in [0, 1], that may get a histogram.
        optional
            Leading columns in which NaN means that a row has no such value.
        """
        leading = values[:, :n_histograms]
        unknown = np.isnan(leading)
        absent = np.zeros_like(unknown)
        absent[:, optional] = unknown[:, optional]
        # Of a number and NaN, fmax and fmin take the number.
        scaled = np.fmin(np.fmax(leading * N_BINS, 0), N_BINS - 1)
        bins = scaled.astype(np.int8)
        bins[unknown] = -1
        values -= origin
        leading[absent] = 0
        return cls(origin, values, np.square(values), absent, bins)

    @classmethod
    def counted(cls, n_rows: int) -> "Rows":
        """Rows that are only counted."""
        return cls.of(np.zeros((n_rows, 0)), np.zeros(0))


@dataclass(frozen=True)
class Binned:
    """Rows whose histograms are still to be counted."""

    codes: NDArray[np.int64]
    """(rows,) group of each."""
    bins: NDArray[np.int8]
    """(rows, columns) bin of each value; -1 for NaN."""

    @classmethod
    def together(cls, parts: Sequence["Binned"]) -> "Binned":
        """Put rows one behind the other."""
        return cls(
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.bins for part in parts]),
        )

    def counted(self, n_groups: int) -> NDArray[np.int32]:
        """Count them: (groups, columns, bins)."""
        n_columns = self.bins.shape[1]
        flat = (self.codes[:, None] * n_columns + np.arange(n_columns)) * N_BINS + self.bins
        counts = np.bincount(flat[self.bins >= 0], minlength=n_groups * n_columns * N_BINS)
        return counts.astype(np.int32).reshape(n_groups, n_columns, N_BINS)


@dataclass(frozen=True)
class Sums:
    """Sums of blocks of rows by group.

    A NaN makes its group's sum NaN, except in optional columns, where it isn't counted.
    """

    keys: pd.MultiIndex
    """The groups that occur, sorted; a level for each key column."""
    n: NDArray[np.int64]
    """(groups,) rows."""
    absent: NDArray[np.int64]
    """(groups, leading columns) absent optional values."""
    total: Float64Array
    """(groups, columns) sum of value - origin."""
    squares: Float64Array
    """(groups, columns) sum of (value - origin)^2."""
    origin: Float64Array
    """(columns,)."""
    binned: Binned | NDArray[np.int32]
    """What `histogram` is counted from: rows of one block, which are few beside the cells of its
    table, so that they are counted together with other blocks'; or the table, once merged."""

    @classmethod
    def of(
        cls, keys: Mapping[str, NDArray[Any]], rows: Rows, *, histograms: bool = False
    ) -> "Sums":
        """Sum one block by key columns, given by name, (rows,) each."""
        n_rows = len(rows.values)
        codes, groups = _factorise(keys)
        n_groups = len(groups)
        n = np.bincount(codes, minlength=n_groups).astype(np.int64)
        members = sparse.csr_array(
            (np.ones(n_rows), np.argsort(codes, kind="stable"), np.concatenate([[0], n.cumsum()])),
            shape=(n_groups, n_rows),
        )
        absent = np.zeros((n_groups, rows.absent.shape[1]), np.int64)
        for column in np.flatnonzero(rows.absent.any(axis=0)):
            absent[:, column] = np.bincount(codes[rows.absent[:, column]], minlength=n_groups)
        n_bins = rows.bins.shape[1] if histograms else 0
        return cls(
            keys=groups,
            n=n,
            absent=absent,
            total=members @ rows.values,
            squares=members @ rows.squares,
            origin=rows.origin,
            binned=Binned(codes, rows.bins[:, :n_bins]),
        )

    @classmethod
    def merged(cls, parts: Sequence["Sums"]) -> "Sums":
        """Add up one or more parts, from first to last, in a table that is allocated once."""
        first = parts[0]
        if len(parts) == 1:
            return first
        keys = first.keys
        if not all(keys.equals(part.keys) for part in parts[1:]):
            keys = _union([part.keys for part in parts])
        tables: dict[str, Any] = {}
        for name in _TABLES:
            of_first = getattr(first, name)
            tables[name] = np.zeros((len(keys), *of_first.shape[1:]), of_first.dtype)
        uncounted: list[Binned] = []
        histogram: NDArray[np.int32] | None = None
        for part in parts:
            same = keys.equals(part.keys)
            at: Any = slice(None) if same else keys.get_indexer(part.keys)
            for name, table in tables.items():
                table[at] += getattr(part, name)
            if isinstance(part.binned, Binned):
                codes = part.binned.codes if same else at[part.binned.codes]
                uncounted.append(Binned(codes, part.binned.bins))
                continue
            if histogram is None:
                histogram = np.zeros((len(keys), *part.binned.shape[1:]), np.int32)
            histogram[at] += part.binned
        if uncounted:
            counted = Binned.together(uncounted).counted(len(keys))
            histogram = counted if histogram is None else histogram + counted
        assert histogram is not None
        return cls(keys=keys, origin=first.origin, binned=histogram, **tables)

    @cached_property
    def histogram(self) -> NDArray[np.int32]:
        """(groups, leading columns, bins); no columns if no histograms were requested."""
        if isinstance(self.binned, Binned):
            return self.binned.counted(len(self.keys))
        return self.binned

    @property
    def count(self) -> NDArray[np.int64]:
        """(groups, columns) number of values that were summed."""
        count = np.repeat(self.n[:, None], self.total.shape[1], axis=1)
        count[:, : self.absent.shape[1]] -= self.absent
        return count

    @property
    def mean(self) -> Float64Array:
        """(groups, columns); NaN where nothing was counted."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.origin + self.total / self.count

    @property
    def deviation(self) -> Float64Array:
        """(groups, columns) standard deviation of the population; NaN where nothing was counted."""
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = (self.squares - self.total**2 / self.count) / self.count
        return np.sqrt(np.maximum(variance, 0))

    def quantile(self, share: float) -> Float64Array:
        """Quantile of the leading columns from their histograms, linear within a bin.

        The value is within a bin's width of a true quantile, and the same however the rows were
        split into blocks.

        Returns
        -------
        (groups, leading columns); NaN where nothing was counted
        """
        cumulative = self.histogram.cumsum(axis=-1, dtype=np.int64)
        wanted = share * cumulative[..., -1:]
        position = np.minimum((cumulative < wanted).sum(axis=-1), N_BINS - 1)
        inside = np.take_along_axis(self.histogram, position[..., None], -1)[..., 0]
        below = np.take_along_axis(cumulative, position[..., None], -1)[..., 0] - inside
        with np.errstate(invalid="ignore", divide="ignore"):
            quantile: Float64Array = (position + (wanted[..., 0] - below) / inside) / N_BINS
        return np.where(cumulative[..., -1] > 0, quantile, np.nan)

    def select(self, keys: pd.MultiIndex) -> "Sums":
        """Select the given groups in their order; those that don't occur are zeros."""
        at = self.keys.get_indexer(keys)
        tables = {}
        for name in _TABLES:
            table = getattr(self, name)
            tables[name] = np.zeros((len(keys), *table.shape[1:]), table.dtype)
            tables[name][at >= 0] = table[at[at >= 0]]
        histogram = np.zeros((len(keys), *self.histogram.shape[1:]), np.int32)
        histogram[at >= 0] = self.histogram[at[at >= 0]]
        return Sums(keys=keys, origin=self.origin, binned=histogram, **tables)


_TABLES = ("n", "absent", "total", "squares")


def _union(indices: Sequence[pd.MultiIndex]) -> pd.MultiIndex:
    """Return the groups that occur in any index, sorted."""
    if indices[0].nlevels == 1:
        levels = [index.get_level_values(0).to_numpy() for index in indices]
        return pd.MultiIndex.from_arrays(
            [np.unique(np.concatenate(levels))], names=indices[0].names
        )
    together = indices[0].append(list(indices[1:]))
    union: pd.MultiIndex = together.unique().sort_values()
    return union


def _factorise(keys: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.int64], pd.MultiIndex]:
    """Group of each row, and the groups that occur, sorted."""
    codes, levels, size = np.zeros(len(next(iter(keys.values()))), np.int64), [], 1
    for column in keys.values():
        level, code = np.unique(column, return_inverse=True)
        codes = codes * max(len(level), 1) + code
        size *= max(len(level), 1)
        levels.append(level)
    occurring, groups = np.unique(codes, return_inverse=True)
    positions = np.unravel_index(occurring, [max(len(level), 1) for level in levels])
    arrays = [level[at] for level, at in zip(levels, positions, strict=True)]
    return groups.astype(np.int64), pd.MultiIndex.from_arrays(arrays, names=list(keys))
