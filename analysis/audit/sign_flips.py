"""Whether paired changes have a direction: one test of many columns at once, by flipping signs.

If nothing but chance tells the two members of a pair apart, a pair's change is as likely with the
other sign, in all columns together. So the largest statistic over the columns is compared with what
it is when the signs of whole rows are flipped. Columns that go together cost no more than one, and
no distribution is assumed. Source: Westfall and Young, Resampling-Based Multiple Testing (1993),
single-step maxT.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

MOST_BLOCKS = 64
"""Rows that are flipped on their own. More rows are put into that many blocks by chance and flipped
together, which bounds the time: the test stays exact, and is about as strong as with all flips."""
_ENOUGH = 20
"""Flips at least as large as what was seen, after which more wouldn't make p small."""
_AT_ONCE = 1024
"""Flips that are computed at once, which bounds the memory."""
_ROUNDING = 1e-5
"""Relative difference within which two statistics in single precision are the same."""


@dataclass(frozen=True)
class SignFlips:
    """Result of a test of many columns."""

    p: float
    """Two-sided, of the column that changed most, corrected for the number of columns."""
    statistic: Float64Array
    """(columns,) size of each column's change, in comparable units; 0 where nothing is known."""
    largest: NDArray[np.float32]
    """(flips,) the largest statistic over the columns in each flip that was made."""
    exact: bool
    """Whether these are all the flips that there are."""

    def p_of(self, column: int) -> float:
        """Two-sided p of one column, corrected for the number of columns."""
        hits = int((self.largest >= _at_least(self.statistic[column])).sum())
        more = 0 if self.exact else 1
        return (hits + more) / (len(self.largest) + more)


def smallest_p(n_rows: int) -> float:
    """Give the least two-sided p that a number of pairs can have: 2 of 2**n_rows flips."""
    return float(2.0 ** (1 - n_rows)) if n_rows else 1.0


def sign_flip_test(
    changes: NDArray[np.floating],
    least: NDArray[np.floating],
    *,
    n_flips: int,
    seed: int,
) -> SignFlips:
    """Test whether any column of paired changes has a direction.

    The statistic of a column is the sum of its changes over the root of their sum of squares, to
    which each row adds the square of the least change that is worth telling. So columns of all
    units and spreads compare, and one that hardly changes isn't the largest by rounding alone.

    Parameters
    ----------
    changes
        (rows, columns) a row a pair, rows independent; NaN where a column isn't defined.
    least
        (columns,) positive: the least mean change of each that would be worth telling.
    n_flips
        Flips to make at most. If there are no more than that, all are made. Otherwise they are
        drawn, and fewer where it is soon clear that p isn't small (Besag and Clifford 1991,
        sequential Monte Carlo p-values), which p takes into account.
    seed
        Seed of the flips that are drawn.

    Raises
    ------
    ValueError
        Where there is no row or no column.
    """
    if not changes.size:
        raise ValueError(f"expected a row and a column of changes, not {changes.shape}")
    known = np.isfinite(changes)
    change = np.where(known, changes, 0.0).astype(np.float64)
    size = np.sqrt((change**2).sum(axis=0) + known.sum(axis=0) * np.square(least))
    scaled = np.divide(change, size, out=np.zeros_like(change), where=known.any(axis=0))
    statistic = np.abs(scaled.sum(axis=0))
    bound = _at_least(statistic.max())
    rng = np.random.default_rng(seed)
    rows = _blocks(scaled, rng).astype(np.float32)
    if 2 ** (len(rows) - 1) <= n_flips:
        largest = np.concatenate([_largest(signs, rows) for signs in _all_signs(len(rows))])
        return SignFlips(float((largest >= bound).mean()), statistic, largest, exact=True)
    drawn: list[NDArray[np.float32]] = []
    n_drawn = n_hits = 0
    while n_drawn < n_flips and n_hits < _ENOUGH:
        at_once = min(_AT_ONCE, n_flips - n_drawn)
        signs = rng.integers(0, 2, (at_once, len(rows)), np.int8).astype(np.float32) * 2 - 1
        drawn.append(_largest(signs, rows))
        n_drawn, n_hits = n_drawn + at_once, n_hits + int((drawn[-1] >= bound).sum())
    largest = np.concatenate(drawn)
    if n_hits < _ENOUGH:
        p = (n_hits + 1) / (n_drawn + 1)
    else:
        p = _ENOUGH / float(np.flatnonzero(largest >= bound)[_ENOUGH - 1] + 1)
    return SignFlips(p, statistic, largest, exact=False)


def _at_least(statistic: float) -> float:
    """Allow for rounding: what a flip's statistic has to reach to be as large."""
    return float(statistic) * (1 - _ROUNDING)


def _blocks(rows: Float64Array, rng: np.random.Generator) -> Float64Array:
    """Sum rows within blocks that are drawn, where there are more than `MOST_BLOCKS`."""
    if len(rows) <= MOST_BLOCKS:
        return rows
    starts = np.linspace(0, len(rows), MOST_BLOCKS, endpoint=False).astype(np.int64)
    blocks: Float64Array = np.add.reduceat(rows[rng.permutation(len(rows))], starts, axis=0)
    return blocks


def _all_signs(n_rows: int) -> list[NDArray[np.float32]]:
    """Every flip of the rows, the first row's sign kept: the others give the same sizes."""
    codes = np.arange(2 ** (n_rows - 1))
    places = np.arange(n_rows)
    return [
        1 - 2 * ((codes[begin : begin + _AT_ONCE, None] >> places) & 1).astype(np.float32)
        for begin in range(0, len(codes), _AT_ONCE)
    ]


def _largest(signs: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest size over the columns, for each flip of (flips, rows)."""
    largest: NDArray[np.float32] = np.abs(signs @ rows).max(axis=1)
    return largest
