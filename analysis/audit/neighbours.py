"""Exact nearest neighbours of every clip, in blocks: memory doesn't grow with pairs."""

import numpy as np
from numpy.typing import NDArray

_ROWS_AT_ONCE = 1024
_COLUMNS_AT_ONCE = 16384
"""Columns in a block of distances: 64 MB in single precision."""
_ROUNDING = 1e-5
"""Share of a vector's square by which squared distances from products may be wrong."""


def nearest(
    vectors: NDArray[np.float32],
    group: NDArray[np.integer],
    k: int,
    *,
    rows_at_once: int = _ROWS_AT_ONCE,
    columns_at_once: int = _COLUMNS_AT_ONCE,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the k nearest rows of another group for each row.

    Candidates come from products in single precision, in which distances near 0 lose their digits.
    The distances of the 2 k best are then computed again from differences.

    Parameters
    ----------
    vectors
        (n, d).
    group
        (n,) rows of the same group aren't neighbours of each other.
    rows_at_once, columns_at_once
        Size of the blocks in which distances are computed.

    Returns
    -------
    (n, k) rows, and (n, k) Euclidean distances, ascending; a row with too few neighbours has -1 and
    infinity at the end
    """
    n = len(vectors)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    rows = np.full((n, k), -1, np.int64)
    distances = np.full((n, k), np.inf)
    kept = min(2 * k, n)
    for start in range(0, n, rows_at_once):
        block = slice(start, min(start + rows_at_once, n))
        best = np.full((block.stop - start, kept), np.inf, np.float32)
        at = np.full(best.shape, -1, np.int64)
        for left in range(0, n, columns_at_once):
            part = slice(left, min(left + columns_at_once, n))
            square = _squared_distances(vectors, squares, block, part)
            square[group[block, None] == group[part]] = np.inf
            few = min(kept, square.shape[1])
            chosen = np.argpartition(square, few - 1, axis=1)[:, :few]
            both = np.concatenate([best, np.take_along_axis(square, chosen, 1)], axis=1)
            who = np.concatenate([at, chosen + left], axis=1)
            order = np.argpartition(both, kept - 1, axis=1)[:, :kept]
            best = np.take_along_axis(both, order, 1)
            at = np.take_along_axis(who, order, 1)
        difference = vectors[block, None].astype(np.float64) - vectors[np.maximum(at, 0)]
        exact = np.sqrt(np.einsum("nkd,nkd->nk", difference, difference))
        exact[~np.isfinite(best)] = np.inf
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(exact, order, 1)
        width = found.shape[1]
        distances[block, :width] = found
        rows[block, :width] = np.where(np.isfinite(found), np.take_along_axis(at, order, 1), -1)
    return rows, distances


def _squared_distances(
    vectors: NDArray[np.float32],
    squares: NDArray[np.float32],
    rows: NDArray[np.integer] | slice,
    columns: slice,
) -> NDArray[np.float32]:
    """Squared distances between two choices of rows, from products: (rows, columns)."""
    square = squares[columns] - 2 * (vectors[rows] @ vectors[columns].T)
    square += squares[rows, None]
    return square


def n_nearer(
    vectors: NDArray[np.float32],
    group: NDArray[np.integer],
    rows: NDArray[np.integer],
    partners: NDArray[np.integer],
    *,
    rows_at_once: int = _ROWS_AT_ONCE,
    columns_at_once: int = _COLUMNS_AT_ONCE,
) -> NDArray[np.int64]:
    """Count the rows of other groups that are nearer to a row than its partner is.

    Squared distances come from products in single precision; what differs by less than their
    rounding counts as equally near.

    Parameters
    ----------
    vectors
        (n, d).
    group
        (n,) rows of the row's own group aren't counted.
    rows, partners
        (m,) each.
    rows_at_once, columns_at_once
        Size of the blocks in which distances are computed.

    Returns
    -------
    (m,)
    """
    squares = np.einsum("nd,nd->n", vectors, vectors)
    count = np.zeros(len(rows), np.int64)
    for start in range(0, len(rows), rows_at_once):
        some = slice(start, start + rows_at_once)
        of, other = rows[some], partners[some]
        difference = vectors[of].astype(np.float64) - vectors[other]
        limit = np.einsum("nd,nd->n", difference, difference) - _ROUNDING * squares[of]
        for left in range(0, len(vectors), columns_at_once):
            part = slice(left, left + columns_at_once)
            square = _squared_distances(vectors, squares, of, part)
            nearer = (square < limit[:, None]) & (group[of, None] != group[part])
            count[some] += nearer.sum(axis=1)
    return count


def two_nn_dimension(distances: NDArray[np.float64]) -> float:
    """Intrinsic dimension from the first two neighbours' distances (Facco et al. 2017).

    r_2 / r_1 has a Pareto distribution whose exponent is the dimension. That is estimated from the
    median of the logarithm, on which pairs of duplicates have little influence.
    """
    first, second = distances[:, 0], distances[:, 1]
    usable = (first > 0) & np.isfinite(second)
    if not usable.any():
        return 1.0
    median = float(np.median(np.log(second[usable] / first[usable])))
    return float(np.clip(np.log(2) / max(median, 1e-6), 1.0, 100.0))
