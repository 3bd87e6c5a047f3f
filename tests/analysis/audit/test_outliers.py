"""Single clips that an audit names: duplicates, suspects and clips unlike their class."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.audit.outliers import (
    _how_near,
    directions,
    hellinger,
    label_suspects,
    near_duplicates,
    unlike_class,
)
from analysis.audit.settings import AuditSettings
from tests.analysis.simulated_runs import ALL, CLASS_NAMES, simulated

SETTINGS = AuditSettings()
MOST_RUNS = 60
"""In 60 runs there are some 54 suspects."""
CHANCE = 1e-4
"""Probability that a test fails by the day's seed although its share holds."""


def drawn(day_seed, n_runs):
    """Runs in which all is planted: one alone leaves a share of few clips to chance."""
    for offset in range(n_runs):
        run = simulated(day_seed + offset, ALL)
        yield run, run.evidence()


def test_near_duplicates_are_found_all_and_none_else(planted):
    run, evidence = planted
    found = near_duplicates(evidence, SETTINGS)
    pairs = {tuple(sorted(finding.subject)) for finding in found}
    assert pairs == {(f"sim{min(p):05d}", f"sim{max(p):05d}") for p in run.planted.duplicates}
    assert all("one in 'train'" in f.seen and "one in 'val'" in f.seen for f in found)


def test_clips_of_one_video_are_no_duplicates(planted):
    run, evidence = planted
    video = evidence.table["video_id"].to_numpy(object).copy()
    first, second = run.planted.duplicates[0]
    video[second] = video[first]
    same = replace(evidence, table=evidence.table.assign(video_id=video))
    assert len(near_duplicates(same, SETTINGS)) == len(run.planted.duplicates) - 1


def test_pooled_vectors_name_pairs_whose_maps_are_alike(clean, day_seed):
    rng = np.random.default_rng(day_seed)
    vectors = rng.normal(size=(len(clean.table), 16)).astype(np.float32)
    vectors[5], vectors[11] = vectors[3] * 1.0001, vectors[9] * 1.0001
    maps, when = clean.maps.copy(), clean.when.copy()
    # The maps of the first pair are those of a copy in another quality, those of the second are of
    # two clips.
    maps[5] = maps[3] * rng.uniform(0.95, 1.05, maps.shape[1])
    maps[5] /= maps[5].sum()
    when[5] = when[3]
    evidence = replace(clean, vectors=vectors, maps=maps, when=when)
    (found,) = near_duplicates(evidence, SETTINGS)
    assert found.subject == ("sim00003", "sim00005")
    assert "pooled vectors" in found.seen


def test_suspects_are_mostly_swapped_labels_and_name_the_true_class(day_seed):
    hits = total = 0
    for run, evidence in drawn(day_seed, MOST_RUNS):
        for suspect in label_suspects(evidence, SETTINGS):
            row = int(suspect.subject[0].removeprefix("sim"))
            total += 1
            true = run.planted.swapped.get(row)
            hits += true is not None and suspect.subject[2] == CLASS_NAMES[true]
        # Classes that overlap leave few to be told by their attention.
        if total >= 12:
            break
    assert total >= 12
    assert stats.binom.cdf(hits, total, 0.8) > CHANCE


def with_second_labels(evidence, rows, labels):
    """Evidence of a run in which some clips have a second label, and so a second row."""
    table = evidence.table.iloc[rows].assign(label_index=labels)
    table["row"] += len(evidence.table)
    return replace(
        evidence,
        table=pd.concat([evidence.table, table], ignore_index=True),
        maps=np.concatenate([evidence.maps, evidence.maps[rows]]),
        when=np.concatenate([evidence.when, evidence.when[rows]]),
    )


def test_a_clip_is_no_suspect_for_the_other_of_its_two_labels(clean, day_seed):
    """The model says the first label of four clips, which are labelled with the next one, too."""
    rng, (_, height, width) = np.random.default_rng(day_seed), clean.grid
    y, x = np.mgrid[:height, :width]
    where = rng.normal(0, 0.7, (len(clean.table), 2))
    # Each class has a place of its own.
    where += np.stack(np.divmod(clean.label, 4), axis=1) * 2.5
    squares = (y - where[:, 0, None, None]) ** 2 + (x - where[:, 1, None, None]) ** 2
    maps = np.exp(-squares / 4).reshape(len(where), -1).astype(np.float32)
    maps /= maps.sum(axis=1, keepdims=True)
    table = clean.table.assign(
        prediction_index=clean.label, probability=0.9, label_probability=0.9, path="a.mp4"
    )
    evidence = replace(clean, maps=maps, table=table)
    rows = np.flatnonzero(clean.label == 2)[:4]
    assert not label_suspects(with_second_labels(evidence, rows, 3), SETTINGS)
    other = with_second_labels(evidence, rows, 3)
    ids = other.table["video_id"].where(
        other.table["row"] < len(clean.table), "another " + other.table["video_id"]
    )
    suspects = label_suspects(replace(other, table=other.table.assign(video_id=ids)), SETTINGS)
    named = {f.subject[0] for f in suspects}
    assert named
    # Where the model is less sure than of what it gets right, it may be wrong by itself.
    unsure = other.table["probability"].where(other.table["row"] < len(clean.table), 0.85)
    unsure = replace(other, table=other.table.assign(video_id=ids, probability=unsure))
    assert not label_suspects(unsure, SETTINGS)
    assert named <= {f"another {video}" for video in table["video_id"].iloc[rows]}


def test_a_copy_of_a_clip_with_two_labels_is_found_once(planted):
    _, evidence = planted
    every = np.arange(len(evidence.table))
    twice = with_second_labels(evidence, every, (evidence.label + 1) % len(CLASS_NAMES))
    once = {f.key: f.effect for f in near_duplicates(evidence, SETTINGS)}
    found = near_duplicates(twice, SETTINGS)
    assert len(found) == len(once)
    assert {f.key: f.effect for f in found} == once


def test_clips_unlike_their_class_are_those_that_were_planted(day_seed):
    hits = total = n_odd = 0
    for run, evidence in drawn(day_seed, 10):
        found = unlike_class(evidence, AuditSettings(q=0.2))
        rows = [int(finding.subject[0].removeprefix("sim")) for finding in found]
        total += len(rows)
        hits += len(set(rows) & {*run.planted.odd, *run.planted.swapped})
        n_odd += len(run.planted.odd)
    assert stats.binom.cdf(hits, total, 0.8) > CHANCE
    # Of 360 in sixty runs, some 160 were found.
    assert stats.binom.cdf(hits, n_odd, 0.3) > CHANCE


def test_clips_that_are_all_the_same_are_not_unlike_their_class(clean):
    table = clean.table.assign(class_agreement=1.0)
    assert unlike_class(replace(clean, table=table), SETTINGS) == []


def test_without_labels_there_are_no_suspects(clean):
    table = clean.table.assign(label_index=-1)
    assert not label_suspects(replace(clean, table=table), SETTINGS)


def test_square_roots_have_hellingers_distance(clean):
    roots = hellinger(clean)
    one, other = clean.maps[0].astype(float), clean.maps[1].astype(float)
    when = clean.when[:2].astype(float)
    coefficient = np.sqrt(one * other).sum() + np.sqrt(when[0] * when[1]).sum()
    total = one.sum() + other.sum() + when.sum()
    assert ((roots[0] - roots[1]) ** 2).sum() == pytest.approx(total - 2 * coefficient)


def test_directions_are_of_length_1_and_of_no_length_where_all_are_the_same(clean):
    np.testing.assert_allclose(np.linalg.norm(directions(clean), axis=1), 1)
    same = replace(clean, maps=np.tile(clean.maps[:1], (len(clean.maps), 1)))
    same = replace(same, when=np.tile(clean.when[:1], (len(clean.when), 1)))
    assert not directions(same).any()


def test_copies_to_the_bit_are_told_as_the_same():
    assert _how_near(0.25, 10) == "4 times nearer to each other than to the 10th neighbour"
    assert _how_near(0.0, 10) == "to the model they are the same"
