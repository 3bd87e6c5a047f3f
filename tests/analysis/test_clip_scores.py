"""Scores of clips against plain NumPy, a clip at a time."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import spatial, stats

from analysis.clip_scores import PEAKS, SCORES, gini, map_scores
from pipeline.attribution.baselines import center_gaussian
from pipeline.attribution.measures import normalised_entropy

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))


def random_maps(seed, n=6, times=4, height=8, width=7):
    rng = np.random.default_rng(seed)
    maps = rng.gamma(0.3, size=(n, times, height, width)) + 1e-7
    when = rng.gamma(1.0, size=(n, times)) + 1e-6
    maps = (maps / maps.sum(axis=(2, 3), keepdims=True)).astype(np.float16)
    return maps, (when / when.sum(axis=1, keepdims=True)).astype(np.float32)


def by_hand(maps, when):
    """Scores of one clip, in float64, as their descriptions say."""
    s, t = maps.astype(np.float64), when.astype(np.float64)
    joint = s * t[:, None, None]
    where = joint.sum(axis=0) / joint.sum()
    n_times, height, width = s.shape
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width])[:, None, None]
    cy, cx = (where * y).sum(), (where * x).sum()
    time = (np.arange(n_times) + 0.5) / n_times
    ct = (t * time).sum()
    ordered = np.sort(where.ravel())[::-1]
    n = where.size
    pairs = np.abs(where.ravel()[:, None] - where.ravel()[None]).sum() / (2 * n)
    time_pairs = np.abs(t[:, None] - t[None]).sum() / (2 * n_times)
    hy, hx = -(-height // 4), -(-width // 4)
    inner = (slice(1, -1), slice(1, -1))
    middle = (np.abs(y - 0.5) <= 0.25) & (np.abs(x - 0.5) <= 0.25)
    furthest = np.hypot((height - 1) / height, (width - 1) / width) / 2
    cosines = [1 - spatial.distance.cosine(frame.ravel(), joint.sum(axis=0).ravel()) for frame in s]
    gaussian = center_gaussian(1, height, width)[0]
    return {
        "entropy": float(normalised_entropy(joint)),
        "spatial_entropy": stats.entropy(where.ravel()) / np.log(n),
        "temporal_entropy": stats.entropy(t) / np.log(n_times),
        "gini": pairs,
        **{
            f"top{share}_mass": ordered[: max(1, round(n * share / 100))].sum()
            for share in (5, 10, 25)
        },
        "temporal_gini": time_pairs / ((n_times - 1) / n_times),
        "peak_mass": t.max(),
        "center_y": cy,
        "center_x": cx,
        "center_time": ct,
        "spread": np.sqrt((where * ((y - cy) ** 2 + (x - cx) ** 2)).sum()) / furthest,
        "temporal_spread": np.sqrt((t * (time - ct) ** 2).sum()) / ((n_times - 1) / n_times / 2),
        "border_mass": 1 - where[inner].sum(),
        "top_left_mass": where[:hy, :hx].sum(),
        "top_right_mass": where[:hy, -hx:].sum(),
        "bottom_left_mass": where[-hy:, :hx].sum(),
        "bottom_right_mass": where[-hy:, -hx:].sum(),
        "center_mass": where[middle].sum(),
        "first_frame_mass": t[0],
        "last_frame_mass": t[-1],
        "movement": np.mean(np.abs(np.diff(s, axis=0)).sum(axis=(1, 2)) / 2),
        "stillness": (t * np.array(cosines)).sum(),
        "center_agreement": np.sqrt(where * gaussian).sum(),
    }


def test_every_score_is_what_its_description_says():
    print("seed", SEED)
    maps, when = random_maps(SEED)
    scored = map_scores(maps, when)
    assert set(scored.scores) == set(SCORES)
    for clip in range(len(maps)):
        expected = by_hand(maps[clip], when[clip])
        assert set(expected) == set(SCORES)
        for name, value in expected.items():
            # Stored shares are rounded to half precision, and so their sums are not quite 1.
            assert scored.scores[name][clip] == pytest.approx(value, abs=1e-3), name
        joint = maps[clip].astype(np.float64) * when[clip][:, None, None]
        y, x = np.unravel_index(joint.sum(axis=0).argmax(), maps.shape[2:])
        peaks = [scored.peaks[name][clip] for name in PEAKS]
        assert peaks == [when[clip].argmax(), y, x]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    times=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    part=st.integers(1, 7),
)
def test_a_clips_numbers_lie_in_0_to_1_and_depend_on_it_alone(seed, times, height, width, part):
    maps, when = random_maps(seed, n=7, times=times, height=height, width=width)
    whole = map_scores(maps, when)
    alone = [map_scores(maps[i : i + part], when[i : i + part]) for i in range(0, 7, part)]
    for name in SCORES:
        values = whole.scores[name]
        assert ((values >= 0) & (values <= 1)).all(), name
        np.testing.assert_array_equal(values, np.concatenate([a.scores[name] for a in alone]))
    np.testing.assert_array_equal(whole.spatial_map, np.concatenate([a.spatial_map for a in alone]))


def test_extremes_have_a_defined_answer():
    uniform = np.full((1, 4, 8, 8), 1 / 64, np.float16)
    even = np.full((1, 4), 0.25, np.float32)
    flat = {name: value[0] for name, value in map_scores(uniform, even).scores.items()}
    assert flat["entropy"] == pytest.approx(1)
    assert flat["stillness"] == pytest.approx(1)
    assert flat["gini"] == flat["movement"] == flat["temporal_gini"] == 0
    point = np.zeros((1, 4, 8, 8), np.float16)
    point[0, :, 0, 0] = 1
    once = np.array([[0, 0, 0, 1]], np.float32)
    sharp = {name: value[0] for name, value in map_scores(point, once).scores.items()}
    assert sharp["entropy"] == pytest.approx(0, abs=1e-6)
    assert sharp["top_left_mass"] == sharp["last_frame_mass"] == sharp["temporal_gini"] == 1
    signed = point.copy()
    signed[0, :, 5, 5] = -0.0
    for name, value in map_scores(signed, once).scores.items():
        assert value[0] == sharp[name], name
    lost = uniform.copy()
    lost[0, 2, 3, 3] = np.nan
    assert all(np.isnan(value[0]) for value in map_scores(lost, even).scores.values())
    assert gini(np.array([[1.0, 0.0, 0.0, 0.0]]))[0] == pytest.approx(3 / 4)
