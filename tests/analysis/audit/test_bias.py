"""Places and times in which a class, or a dataset, is looked at more than it should be."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.audit.bias import (
    attention_sinks,
    centred_dataset,
    class_biases,
    off_object,
)
from analysis.audit.logos import logos
from analysis.audit.settings import AuditSettings
from tests.analysis.simulated_runs import CLASS_NAMES, FLASH, LOGO, STATIC

SETTINGS = AuditSettings()


def of_class(found, index):
    return [finding for finding in found if finding.subject == (CLASS_NAMES[index],)]


def test_a_flash_is_found_in_the_first_step_and_a_still_map_in_no_place(planted):
    _, evidence = planted
    found = class_biases(evidence, SETTINGS)
    (flash,) = [f for f in of_class(found, FLASH) if f.kind == "first_last_frames"]
    assert flash.place.time == (0, 1)
    (static,) = [f for f in of_class(found, STATIC) if f.kind == "static"]
    assert static.place.time is None


def test_the_last_step_is_named_where_it_is_the_last(clean):
    when = clean.when.copy()
    member = clean.groups == FLASH
    when[member] = 0.5 * when[member]
    when[member, -1] += 0.5
    table = clean.table.assign(first_frame_mass=when[:, 0], last_frame_mass=when[:, -1])
    (found,) = [
        f
        for f in class_biases(replace(clean, table=table, when=when), SETTINGS)
        if f.kind == "first_last_frames"
    ]
    assert found.subject == (CLASS_NAMES[FLASH],)
    assert found.place.time == (clean.grid[0] - 1, clean.grid[0])


def test_a_class_that_changes_most_at_its_end_has_no_cue_there(clean):
    """Several times an even share is much, but no flash, title or cut, which end at once."""
    n_times = clean.grid[0]
    when = np.full_like(clean.when, 1 / n_times)
    member = clean.groups == FLASH
    when[member] = np.array([0.11, 0.1, 0.08, 0.06, 0.06, 0.1, 0.16, 0.33])
    rng = np.random.default_rng(0)
    when *= rng.uniform(0.95, 1.05, when.shape)
    table = clean.table.assign(first_frame_mass=when[:, 0], last_frame_mass=when[:, -1])
    found = class_biases(replace(clean, table=table, when=when), SETTINGS)
    assert not [f for f in found if f.kind == "first_last_frames"]


@pytest.mark.parametrize("n_steps", [1, 3, 7])
def test_a_flash_is_named_for_as_long_as_it_lasts(clean, n_steps):
    n_times = clean.grid[0]
    when = clean.when.copy()
    member = clean.groups == FLASH
    when[member] = 0.1 * when[member]
    when[member, :n_steps] += 0.9 / n_steps
    if n_steps == 7:
        # The first step alone decides; it has to stand out.
        when[member, 0] += 0.4
    when[member] /= when[member].sum(axis=1, keepdims=True)
    table = clean.table.assign(first_frame_mass=when[:, 0], last_frame_mass=when[:, -1])
    evidence = replace(clean, table=table, when=when.astype(np.float32))
    (found,) = [f for f in class_biases(evidence, SETTINGS) if f.kind == "first_last_frames"]
    assert found.place.time == (0, 1 if n_steps == 7 else min(n_steps, n_times // 2))


def test_classes_of_too_few_clips_are_not_tested(planted):
    _, evidence = planted
    many = AuditSettings(min_clips=200)
    assert not logos(evidence, many)
    assert not class_biases(evidence, many)


def test_a_share_that_all_clips_have_is_a_sink_and_one_of_a_class_is_none(planted, clean):
    assert not attention_sinks(clean, SETTINGS)
    assert not attention_sinks(planted[1], SETTINGS)
    maps = 0.8 * clean.maps
    maps[:, 19] += 0.2
    (sink,) = attention_sinks(replace(clean, maps=maps), SETTINGS)
    assert sink.subject == ("row 3, column 4",)
    assert (sink.place.y, sink.place.x) == ((2, 3), (3, 4))
    assert sink.effect == pytest.approx(maps[:, 19].mean() * maps.shape[1], rel=1e-6)


def marked(evidence, share, area):
    """Evidence of a run whose clips have a marked region, with its share of the weight."""
    return replace(
        evidence, table=evidence.table.assign(mask_share_attribution=share, mask_covered=area)
    )


def test_a_class_that_is_looked_past_is_found(clean, day_seed):
    assert not off_object(clean, SETTINGS)
    rng, n = np.random.default_rng(day_seed), len(clean.table)
    area = rng.uniform(0.05, 0.2, n)
    share = rng.uniform(0.4, 0.8, n)
    share[clean.groups == LOGO] = (area * rng.uniform(0.2, 1.2, n))[clean.groups == LOGO]
    # Clips without a ground truth don't count, nor do those that it fills or is absent from.
    share[::7], area[1::7], area[2::7] = np.nan, 0, 1
    (found,) = off_object(marked(clean, share, area), SETTINGS)
    assert found.subject == (CLASS_NAMES[LOGO],)
    usable = np.isfinite(share) & (area > 0) & (area < 1)
    assert found.n == usable[clean.groups == LOGO].sum()
    assert found.low <= found.effect <= found.high < 0


def test_a_large_object_that_is_looked_at_is_not_said_to_be_looked_past(clean, day_seed):
    rng, n = np.random.default_rng(day_seed), len(clean.table)
    large = clean.groups == LOGO
    # Of a region of 60 % no more than 1.67 times its area can be had; others have 5 times theirs.
    area = np.where(large, 0.6, 0.1)
    share = np.where(large, 0.96, 0.5) + rng.normal(0, 0.02, n)
    assert not off_object(marked(clean, share, area), SETTINGS)


def test_maps_that_are_all_a_blob_in_the_middle_are_told_of(clean):
    assert not centred_dataset(clean, SETTINGS)
    n, (_, height, width) = len(clean.table), clean.grid
    y, x = np.mgrid[:height, :width] + 0.5
    blob = np.exp(-((y - height / 2) ** 2 + (x - width / 2) ** 2) / (2 * (height / 4) ** 2))
    maps = np.tile((blob / blob.sum()).reshape(1, -1), (n, 1)).astype(np.float32)
    centred = replace(clean, maps=maps, table=clean.table.assign(center_agreement=0.99))
    (found,) = centred_dataset(centred, SETTINGS)
    assert (found.kind, found.scope, found.n) == ("centre_only", "dataset", n)
