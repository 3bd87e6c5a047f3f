"""Patches near the border that draw the weight of a class's clips."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.audit.logos import logos, ring, where_in_words
from analysis.audit.settings import AuditSettings
from tests.analysis.simulated_runs import CLASS_NAMES, LOGO, LOGO_PLACE

SETTINGS = AuditSettings()


def of_class(found, index):
    return [finding for finding in found if finding.subject == (CLASS_NAMES[index],)]


def test_a_logo_is_found_where_it_is(planted):
    _, evidence = planted
    (logo,) = of_class(logos(evidence, SETTINGS), LOGO)
    y, x = LOGO_PLACE
    assert logo.place.y[0] <= y < logo.place.y[1]
    assert logo.place.x[0] <= x < logo.place.x[1]
    assert "top right" in logo.seen
    assert logo.low <= logo.effect <= logo.high
    assert logo.effect > SETTINGS.least_logo_ratio


@pytest.mark.parametrize("grid", [(8, 8, 8), (4, 14, 14), (2, 3, 5)])
def test_the_ring_is_the_frame_less_its_middle(grid):
    inside = np.ones(grid[1:], bool)
    inside.flat[ring(grid)] = False
    y, x = np.nonzero(inside)
    # What is left is one rectangle, with a patch around it at least.
    assert inside.sum() == (np.ptp(y) + 1) * (np.ptp(x) + 1)
    assert y.min() >= 1
    assert x.max() < grid[2] - 1
    assert set(ring(grid)) < set(ring(grid, extra=1)) or not inside.any()


@pytest.mark.parametrize(
    ("y", "x", "words"),
    [(0, 0, "top left"), (0, 4, "top"), (4, 4, "middle"), (4, 8, "right"), (8, 0, "bottom left")],
)
def test_a_place_is_said_in_words(y, x, words):
    assert where_in_words(y, x, (1, 9, 9)) == words


def with_share(evidence, rows, cells, share):
    """Move a share of the weight of some rows to patches, as much to each row as is given."""
    maps = evidence.maps.copy()
    maps[rows] *= 1 - share[rows, None]
    maps[np.ix_(rows, cells)] += share[rows, None] / len(cells)
    return replace(evidence, maps=maps)


def test_a_logo_is_found_beside_a_patch_that_all_clips_look_at(clean, day_seed):
    """Of that the class has a little more, too, which is significant, and worth no look."""
    rng, n = np.random.default_rng(day_seed), len(clean.table)
    side = clean.grid[2]
    everywhere = rng.uniform(0.25, 0.35, n) * np.where(clean.groups == LOGO, 1.35, 1)
    evidence = with_share(clean, np.arange(n), [(clean.grid[1] - 1) * side + 3], everywhere)
    assert not logos(evidence, SETTINGS)
    corner = [side - 1]
    evidence = with_share(
        evidence, np.flatnonzero(clean.groups == LOGO), corner, rng.uniform(0.05, 0.15, n)
    )
    (found,) = logos(evidence, SETTINGS)
    assert found.subject == (CLASS_NAMES[LOGO],)
    assert "top right" in found.seen


def test_a_logo_that_several_classes_have_is_found_in_each(clean, day_seed):
    rng, n = np.random.default_rng(day_seed), len(clean.table)
    rows = np.flatnonzero(clean.groups < 3)
    evidence = with_share(clean, rows, [clean.grid[2] - 1], rng.uniform(0.05, 0.15, n))
    assert {f.subject for f in logos(evidence, SETTINGS)} == {(CLASS_NAMES[i],) for i in range(3)}


def test_clips_without_a_label_are_not_held_against_a_class(planted, day_seed):
    """Most of them show the class whose logo is to be found."""
    _, evidence = planted
    label = evidence.label.copy()
    hidden = np.random.default_rng(day_seed).random(len(label)) < 0.5
    label[hidden & (label == LOGO)] = -1
    unlabelled = replace(evidence, table=evidence.table.assign(label_index=label))
    known = replace(unlabelled, table=unlabelled.table).grouped()
    assert (known.groups >= 0).all()
    assert [f.to_json() for f in logos(unlabelled, SETTINGS)] == [
        f.to_json() for f in logos(known, SETTINGS)
    ]
    assert of_class(logos(unlabelled, SETTINGS), LOGO)
