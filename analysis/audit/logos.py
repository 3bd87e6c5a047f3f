"""Logos and borders: patches near the frame's edge that draw the weight of one class."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from analysis.audit.evidence import Evidence, seed_of
from analysis.audit.finding import Finding, Place
from analysis.audit.settings import AuditSettings
from analysis.audit.significance import adjusted, bootstrap_interval, mean_ratio, rank_tests
from analysis.clip_scores import border_width

_LEAST_EVEN_SHARES = 2.0
"""How many times an even share a patch with a logo gets, as an end of a clip with a cue does."""
_LEAST_SHARPNESS = 1.6
"""How many times its neighbours' mean excess a patch with a logo has."""


def logos(evidence: Evidence, settings: AuditSettings) -> list[Finding]:
    """Find classes in which many clips share an excess in one patch near the frame's border.

    Each patch of the outer ring, which is one patch wider than a map's border, is tested in each
    class against the same patch in other classes. A class's p is the smallest of its patches, times
    their number. Of the patches that are significant, get twice an even share, stand out from
    their neighbours, get so many times what they get in other classes, and do so in half of the
    clips, the one that tells the class best is the finding.
    """
    evidence = evidence.grouped()
    groups, n_classes = evidence.groups, len(evidence.class_names)
    size = np.bincount(groups, minlength=n_classes)
    cells, n_patches = ring(evidence.grid, extra=1), evidence.maps.shape[1]
    auc, p = (
        np.stack(tables)
        for tables in zip(
            *(rank_tests(evidence.maps[:, cell], groups, n_classes) for cell in cells), strict=True
        )
    )
    p = np.where(size >= settings.min_clips, p, np.nan)
    least = np.minimum(np.nanmin(np.where(np.isnan(p), np.inf, p), axis=0) * len(cells), 1)
    q = adjusted(np.where(size >= settings.min_clips, least, np.nan))
    high_shares = _HighShares(evidence)
    found = []
    for index in np.flatnonzero(q <= settings.q):
        member = groups == index
        excess = evidence.maps[member].mean(axis=0) - evidence.maps[~member].mean(axis=0)
        drawn = _stand_out(excess.reshape(evidence.grid[1:])).flat[cells]
        # A patch that gets little draws nothing, even if it gets less in other classes.
        drawn &= evidence.maps[member][:, cells].mean(axis=0) * n_patches >= _LEAST_EVEN_SHARES
        sure = np.flatnonzero((p[:, index] * len(cells) <= settings.q) & drawn)
        for best in sure[np.argsort(-auc[sure, index], kind="stable")].tolist():
            cell = int(cells[best])
            inside = evidence.maps[member, cell].astype(np.float64)
            outside = evidence.maps[~member, cell].astype(np.float64)
            ratio = inside.mean() / max(outside.mean(), 1e-12)
            recurs = float((inside > high_shares(cell, int(index))).mean())
            if ratio >= settings.least_logo_ratio and recurs >= 0.5:
                break
        else:
            continue
        name = evidence.class_names[int(index)]
        low, high = bootstrap_interval(mean_ratio, inside, outside, seed=seed_of("logo", name))
        y, x = divmod(cell, evidence.grid[2])
        rows = np.flatnonzero(member)
        found.append(
            Finding(
                kind="logo",
                scope="class",
                subject=(name,),
                seen=f"In {name!r} the patch in row {y + 1}, column {x + 1} "
                f"({where_in_words(y, x, evidence.grid)}) gets {ratio:.1f} times the weight "
                f"that it gets in other classes; in {recurs:.0%} of the clips it gets more than in "
                "nine out of ten clips of most other classes.",
                check="Look at that place in these clips for a logo, a caption or a border that "
                "other classes don't have.",
                effect=float(ratio),
                effect_name="share of the patch divided by its share in other classes",
                low=low,
                high=high,
                p=float(least[index]),
                q=float(q[index]),
                n=int(member.sum()),
                strength=float(2 * auc[best, index] - 1),
                examples=evidence.examples(rows[np.argsort(-inside, kind="stable")]),
                method=evidence.method,
                class_specific=evidence.class_specific,
                place=_around(y, x, evidence.grid),
            )
        )
    return found


class _HighShares:
    """Share of a patch that nine tenths of a usual class's clips stay below.

    The median over the other classes is taken: a logo that several classes have doesn't hide
    itself.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._maps = evidence.maps
        self._present, counts = np.unique(evidence.groups, return_counts=True)
        by_class = np.argsort(evidence.groups, kind="stable")
        self._rows = np.split(by_class, np.cumsum(counts)[:-1])
        self._of_cell: dict[int, NDArray[np.float64]] = {}

    def __call__(self, cell: int, index: int) -> float:
        """Median over the classes but this one; infinite if there is no other."""
        if cell not in self._of_cell:
            self._of_cell[cell] = np.array(
                [np.quantile(self._maps[rows, cell], 0.9) for rows in self._rows]
            )
        others = self._of_cell[cell][self._present != index]
        return float(np.median(others)) if len(others) else np.inf


def _stand_out(excess: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether each patch of (y, x) exceeds its neighbours, up to eight, by so much in the mean.

    A logo or a line of text covers few of them. Where the patch lies in or beside something large,
    most exceed other classes, too.
    """
    raised = np.maximum(excess, 0)
    window = np.ones((3, 3))
    around = ndimage.convolve(raised, window, mode="constant") - raised
    n_around = ndimage.convolve(np.ones_like(raised), window, mode="constant") - 1
    sharp: NDArray[np.bool_] = (raised * n_around >= _LEAST_SHARPNESS * around) & (raised > 0)
    return sharp


def ring(grid: tuple[int, int, int], *, extra: int = 0) -> NDArray[np.int64]:
    """Index the patches (of y * x) in the outer ring of a frame."""
    _, height, width = grid
    rows, columns = border_width(height) + extra, border_width(width) + extra
    y, x = np.mgrid[:height, :width]
    inner = (y >= rows) & (y < height - rows) & (x >= columns) & (x < width - columns)
    return np.flatnonzero(~inner)


def where_in_words(y: int, x: int, grid: tuple[int, int, int]) -> str:
    """Say where in the frame a patch is: ``top left``, ``middle``."""
    _, height, width = grid
    vertical = ("top", "", "bottom")[min(3 * y // height, 2)]
    horizontal = ("left", "", "right")[min(3 * x // width, 2)]
    return " ".join(part for part in (vertical, horizontal) if part) or "middle"


def _around(y: int, x: int, grid: tuple[int, int, int]) -> Place:
    """Return the patch and its neighbours."""
    _, height, width = grid
    return Place(
        y=(max(y - 1, 0), min(y + 2, height)),
        x=(max(x - 1, 0), min(x + 2, width)),
    )
