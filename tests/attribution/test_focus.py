"""Threshold and focusing: what must hold of any attribution, and references written another way."""

import json
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.attribution.focus import Focus, Threshold, apply_steps, joint_attribution, steps_name
from pipeline.attribution.measures import share_kept

KINDS = ["percentile", "sigma", "otsu"]
CLIP = (-3, -2, -1)

shapes = hnp.array_shapes(min_dims=3, max_dims=4, max_side=5)
masses = st.floats(0, 1, width=32).map(lambda mass: 0.0 if mass < 1e-6 else mass)


@st.composite
def attributions(draw, shape=shapes, dtype=np.float64, elements=masses):
    """Distributions over (time, y, x), with ties and zeros, but none that is zero throughout."""
    values = draw(hnp.arrays(np.float64, shape, elements=elements))
    totals = values.sum(axis=CLIP, keepdims=True)
    assume((totals > 0).all())
    return (values / totals).astype(dtype)


distinct = st.integers(2, 60).flatmap(
    lambda n: st.permutations(range(1, n + 1)).map(
        lambda order: (np.array(order, float) / sum(order)).reshape(1, 1, n)
    )
)


def random_attribution(*shape, seed=0, dtype=np.float64):
    values = np.random.default_rng(seed).gamma(0.5, size=shape)
    return (values / values.sum(axis=CLIP, keepdims=True)).astype(dtype)


def entropy(attribution):
    return -np.sum(np.where(attribution > 0, attribution * np.log(attribution + 1e-300), 0))


@given(attributions(), st.sampled_from(KINDS), st.booleans())
def test_thresholded_is_a_distribution_on_part_of_the_support(attribution, kind, per_frame):
    kept = Threshold(kind=kind, per_frame=per_frame).apply(attribution)
    assert kept.shape == attribution.shape
    assert (kept >= 0).all()
    np.testing.assert_allclose(kept.sum(axis=CLIP), 1, rtol=1e-6)
    assert not (kept > 0)[attribution == 0].any()
    # One factor for the whole clip: what is kept keeps its proportions.
    shares = np.divide(kept, attribution, out=np.zeros_like(kept), where=attribution > 0)
    largest = shares.max(axis=CLIP, keepdims=True)
    assert np.all((shares == 0) | np.isclose(shares, largest))


@given(attributions(), st.sampled_from(KINDS), st.booleans())
def test_a_threshold_keeps_the_largest_and_nothing_below_what_it_drops(
    attribution, kind, per_frame
):
    kept = Threshold(kind=kind, per_frame=per_frame).apply(attribution) > 0
    assert kept[attribution == attribution.max(axis=CLIP, keepdims=True)].all()
    n_values = int(np.prod(attribution.shape[-2:] if per_frame else attribution.shape[-3:]))
    pairs = zip(attribution.reshape(-1, n_values), kept.reshape(-1, n_values), strict=True)
    for values, chosen in pairs:
        dropped = values[~chosen]
        if dropped.size and dropped.max() > 0:
            assert values[chosen].min() > dropped.max()


thresholds = st.builds(
    Threshold,
    kind=st.sampled_from(KINDS),
    percentile=st.floats(0, 100),
    n_sigma=st.floats(-3, 5) | st.integers(-2, 3),
    per_frame=st.booleans(),
)
few_values = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
"""Means, deviations and splits of these tie with values and with each other, but for rounding."""


@settings(deadline=None, max_examples=100)
@given(
    st.one_of(
        attributions(dtype=np.float32),
        attributions(),
        attributions(elements=few_values),
        attributions(elements=few_values, dtype=np.float32),
    ),
    thresholds,
)
def test_a_threshold_is_idempotent(attribution, threshold):
    once = threshold.apply(attribution)
    twice = threshold.apply(once)
    np.testing.assert_array_equal(twice > 0, once > 0)
    np.testing.assert_allclose(twice, once, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "threshold",
    [Threshold(kind="otsu"), *(Threshold(kind="sigma", n_sigma=n) for n in (-1, 0, 0.5, 1, 2))],
    ids=lambda threshold: threshold.name,
)
def test_a_threshold_is_idempotent_on_every_map_of_nine_small_numbers(threshold, dtype):
    """Where a value is the mean, or two splits are as good, bits must not decide."""
    counts = np.array(list(combinations_with_replacement(range(5), 9))[1:], float)
    attribution = (counts / counts.sum(axis=1, keepdims=True)).astype(dtype).reshape(-1, 1, 3, 3)
    once = threshold.apply(attribution)
    np.testing.assert_array_equal(threshold.apply(once) > 0, once > 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [0.05, 0.5, 5.0, 500.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_threshold_is_idempotent_on_grids_of_models(kind, shape, dtype):
    """From attributions of a few patches, gamma's small shapes, to nearly flat ones."""
    values = np.random.default_rng(0).gamma(shape, size=(20, 8, 14, 14)) + 1e-9
    attribution = (values / values.sum(axis=CLIP, keepdims=True)).astype(dtype)
    for per_frame in (False, True):
        for percentile, n_sigma in [(10, -0.5), (50, 0), (90, 1), (99.9, 3)]:
            threshold = Threshold(
                kind=kind, percentile=percentile, n_sigma=n_sigma, per_frame=per_frame
            )
            once = threshold.apply(attribution)
            np.testing.assert_array_equal(threshold.apply(once) > 0, once > 0)


@given(attributions(), st.floats(0, 100), st.floats(0, 100), st.booleans())
def test_a_higher_percentile_keeps_a_part(attribution, first, second, per_frame):
    lower, higher = sorted([first, second])
    many = Threshold(percentile=lower, per_frame=per_frame).apply(attribution) > 0
    few = Threshold(percentile=higher, per_frame=per_frame).apply(attribution) > 0
    assert not (few & ~many).any()


@given(attributions(), st.floats(-3, 5), st.floats(-3, 5), st.booleans())
def test_more_deviations_keep_a_part(attribution, first, second, per_frame):
    lower, higher = sorted([first, second])
    many = Threshold(kind="sigma", n_sigma=lower, per_frame=per_frame).apply(attribution) > 0
    few = Threshold(kind="sigma", n_sigma=higher, per_frame=per_frame).apply(attribution) > 0
    assert not (few & ~many).any()


@given(distinct, st.floats(0, 100))
def test_percentile_keeps_that_share_of_distinct_values(attribution, percentile):
    kept = (Threshold(percentile=percentile).apply(attribution) > 0).sum()
    wanted = attribution.size * (1 - percentile / 100)
    assert abs(kept - wanted) <= 1


@pytest.mark.parametrize(("percentile", "kept"), [(0, 8), (50, 4), (75, 2), (100, 1)])
def test_percentile_of_eight_values(percentile, kept):
    attribution = np.arange(1.0, 9).reshape(2, 2, 2) / 36
    assert (Threshold(percentile=percentile).apply(attribution) > 0).sum() == kept


@pytest.mark.parametrize("n_sigma", [-0.5, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("per_frame", [False, True])
def test_sigma_is_mean_plus_deviations(n_sigma, per_frame):
    attribution = random_attribution(3, 6, 7)
    kept = Threshold(kind="sigma", n_sigma=n_sigma, per_frame=per_frame).apply(attribution) > 0
    groups = attribution.reshape(3 if per_frame else 1, -1)
    for values, chosen in zip(groups, kept.reshape(groups.shape), strict=True):
        mean = sum(values) / len(values)
        deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
        assert np.array_equal(chosen, values >= mean + n_sigma * deviation)


def within_class_variance(values, threshold):
    """Otsu's other form: what is left within the two groups; the best split has least."""
    groups = values[values < threshold], values[values >= threshold]
    return sum(len(group) * np.var(group) for group in groups if len(group))


@given(attributions(), st.booleans())
def test_otsu_is_the_best_of_all_splits(attribution, per_frame):
    if per_frame:  # One frame a clip, so that a clip's renormalisation is the frame's.
        attribution = attribution[..., :1, :, :]
        assume((attribution.sum(axis=CLIP) > 0).all())
    kept = Threshold(kind="otsu", per_frame=per_frame).apply(attribution)
    n_values = int(np.prod(attribution.shape[-3:]))
    pairs = zip(attribution.reshape(-1, n_values), kept.reshape(-1, n_values), strict=True)
    for values, thresholded in pairs:
        best = min(within_class_variance(values, split) for split in np.unique(values))
        found = within_class_variance(values, values[thresholded > 0].min())
        assert found <= best + 1e-12


def test_otsu_finds_the_gap_between_two_groups_in_each_frame():
    high = np.zeros((2, 4, 4), bool)
    high[0, 1, 1:3] = high[1, 2:, :2] = True
    noise = np.random.default_rng(0).uniform(-0.05, 0.05, high.shape)
    attribution = np.where(high, 1.0, 0.2) + noise
    # The second frame is a hundred times fainter: a threshold of the clip drops it whole.
    attribution[1] /= 100
    per_frame = Threshold(kind="otsu", per_frame=True).apply(attribution) > 0
    assert np.array_equal(per_frame, high)
    per_clip = Threshold(kind="otsu").apply(attribution) > 0
    assert np.array_equal(per_clip[0], high[0])
    assert not per_clip[1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_per_frame_is_the_threshold_of_each_frame_alone(kind):
    attribution = random_attribution(2, 3, 5, 4)
    together = Threshold(kind=kind, per_frame=True).apply(attribution) > 0
    for clip in range(2):
        for time in range(3):
            alone = Threshold(kind=kind).apply(attribution[clip, time : time + 1]) > 0
            assert np.array_equal(together[clip, time], alone[0])
    assert (together.sum(axis=(-2, -1)) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), (2, 3, 1, 1)])
def test_a_grid_of_one_patch_keeps_it_in_every_frame(kind, shape):
    attribution = random_attribution(*shape)
    kept = Threshold(kind=kind, per_frame=True).apply(attribution)
    np.testing.assert_allclose(kept, attribution, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flat_attribution_is_kept_whole(kind):
    flat = np.full((2, 4, 3, 2), 1 / 24)
    np.testing.assert_allclose(Threshold(kind=kind).apply(flat), flat)


@given(attributions(dtype=np.float32))
def test_focus_of_temperature_1_without_smoothing_changes_nothing(attribution):
    np.testing.assert_allclose(Focus().apply(attribution), attribution, rtol=1e-5, atol=1e-7)


@given(attributions(), st.floats(0.1, 10), st.sampled_from([0.0, 0.4, 1.0, 3.0]))
def test_focused_is_a_distribution(attribution, temperature, smoothing):
    focused = Focus(temperature=temperature, smoothing=smoothing).apply(attribution)
    assert focused.shape == attribution.shape
    assert (focused >= 0).all()
    np.testing.assert_allclose(focused.sum(axis=CLIP), 1, rtol=1e-6)


@given(attributions(), st.floats(0.1, 10))
def test_focus_without_smoothing_keeps_the_order(attribution, temperature):
    focused = Focus(temperature=temperature).apply(attribution)
    for before, after in zip(
        attribution.reshape(-1, np.prod(attribution.shape[-3:])),
        focused.reshape(-1, np.prod(attribution.shape[-3:])),
        strict=True,
    ):
        assert (np.diff(after[np.argsort(before)]) >= 0).all()
        assert np.array_equal(after == 0, before == 0)


@given(distinct, st.floats(0.2, 5))
def test_values_that_differ_stay_different_and_in_order(attribution, temperature):
    focused = Focus(temperature=temperature).apply(attribution)
    order = np.argsort(attribution.ravel())
    assert (np.diff(focused.ravel()[order]) > 0).all()


@given(attributions(), st.floats(0.2, 5), st.sampled_from([0.4, 1.0, 3.0]))
def test_with_smoothing_the_order_is_that_of_the_smoothed(attribution, temperature, smoothing):
    smooth = Focus(smoothing=smoothing).apply(attribution)
    focused = Focus(smoothing=smoothing, temperature=temperature).apply(attribution)
    n_values = int(np.prod(attribution.shape[-3:]))
    pairs = zip(smooth.reshape(-1, n_values), focused.reshape(-1, n_values), strict=True)
    for before, after in pairs:
        # Two results of smoothing that differ in their last bits alone are the same.
        assert (np.diff(after[np.argsort(before)]) >= -1e-12).all()


@given(attributions(), st.floats(0.5, 2), st.floats(0.5, 2))
def test_two_temperatures_are_their_product(attribution, first, second):
    twice = apply_steps(attribution, [Focus(temperature=first), Focus(temperature=second)])
    once = Focus(temperature=first * second).apply(attribution)
    np.testing.assert_allclose(twice, once, rtol=1e-9, atol=1e-12)


@given(attributions(hnp.array_shapes(min_dims=3, max_dims=3)), st.floats(0.1, 8), st.floats(0.1, 8))
def test_a_lower_temperature_never_raises_the_entropy(attribution, first, second):
    colder, warmer = sorted([first, second])
    sharp = Focus(temperature=colder).apply(attribution)
    flat = Focus(temperature=warmer).apply(attribution)
    assert entropy(sharp) <= entropy(flat) + 1e-9


def test_temperature_is_the_power_1_over_it():
    attribution = np.array([[[0.1, 0.2, 0.7]]])
    squared = np.array([0.01, 0.04, 0.49]) / 0.54
    np.testing.assert_allclose(Focus(temperature=0.5).apply(attribution)[0, 0], squared)
    sharpened = Focus(temperature=0.1).apply(attribution)
    assert entropy(sharpened) < entropy(attribution) - 0.5


def gaussian_by_matrix(frame, sigma):
    """Smooth (y, x) by an explicit matrix per axis; what leaves the frame is reflected into it."""
    radius = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        n = frame.shape[axis]
        matrix = np.zeros((n, n))
        for to in range(n):
            for offset, weight in zip(range(-radius, radius + 1), kernel, strict=True):
                source = (to + offset) % (2 * n)
                matrix[to, min(source, 2 * n - 1 - source)] += weight
        frame = np.moveaxis(np.tensordot(matrix, frame, axes=(1, axis)), 0, axis)
    return frame


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.5])
def test_smoothing_is_a_gaussian_within_each_frame(sigma):
    attribution = random_attribution(2, 3, 7, 5)
    smooth = Focus(smoothing=sigma).apply(attribution)
    for clip in range(2):
        for time in range(3):
            expected = gaussian_by_matrix(attribution[clip, time], sigma)
            np.testing.assert_allclose(smooth[clip, time], expected, atol=1e-9)


@given(attributions(), st.floats(0.1, 5))
def test_smoothing_leaves_each_frame_its_share(attribution, smoothing):
    """Else attention at a border would gain weight from smoothing, and `when` with it."""
    smooth = Focus(smoothing=smoothing).apply(attribution)
    np.testing.assert_allclose(smooth.sum(axis=(-2, -1)), attribution.sum(axis=(-2, -1)), atol=1e-9)


def test_smoothing_comes_before_sharpening():
    attribution = random_attribution(1, 6, 6)
    both = Focus(smoothing=1.0, temperature=0.5).apply(attribution)
    expected = gaussian_by_matrix(attribution[0], 1.0) ** 2
    np.testing.assert_allclose(both[0], expected / expected.sum(), rtol=1e-6)


FINE_GRIDS = [(8, 14, 14), (16, 56, 56), (32, 64, 64)]
STEPS = [
    *(Threshold(kind=kind, per_frame=per_frame) for kind in KINDS for per_frame in (False, True)),
    Focus(temperature=0.25),
    Focus(temperature=8),
    Focus(smoothing=1),
    Focus(smoothing=1, temperature=0.3),
]
every_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)


@every_step
def test_the_same_bytes_again_and_the_input_is_left_alone(step):
    attribution = random_attribution(2, 3, 6, 6, dtype=np.float32)
    original = attribution.tobytes()
    assert step.apply(attribution).tobytes() == step.apply(attribution).tobytes()
    assert attribution.tobytes() == original


@every_step
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9, 8, 14, 14), (33, 1, 3, 1), (70, 2, 2, 3)], ids=str)
def test_a_clips_bytes_are_the_same_alone_in_a_batch_and_from_any_memory_order(step, dtype, shape):
    attribution = random_attribution(*shape, dtype=dtype)
    batch = step.apply(attribution)
    for clip in range(len(attribution)):
        assert step.apply(attribution[clip]).tobytes() == batch[clip].tobytes()
    part = step.apply(attribution[2:7:2])
    assert part.tobytes() == np.ascontiguousarray(batch[2:7:2]).tobytes()
    turned = np.asfortranarray(attribution)
    assert np.ascontiguousarray(step.apply(turned)).tobytes() == batch.tobytes()


@pytest.mark.parametrize("shape", FINE_GRIDS, ids=str)
@every_step
def test_float16_gives_what_float64_gives_of_the_same_values(step, shape):
    """A share of 1e-5 and its square are lost in float16, and sums of 1e5 powers overflow it."""
    half = random_attribution(*shape, dtype=np.float16)
    result = step.apply(half)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, step.apply(half.astype(np.float64)), rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(result.sum(dtype=np.float64), 1, atol=1e-5)


@every_step
@pytest.mark.parametrize("nothing", [np.nan, 0.0])
@pytest.mark.filterwarnings("error")
def test_a_clip_without_attribution_is_nan_and_its_neighbour_is_not(step, nothing):
    attribution = random_attribution(3, 2, 4, 4, dtype=np.float32)
    alone = step.apply(attribution[2])
    attribution[1] = nothing
    result = step.apply(attribution)
    assert np.isnan(result[1]).all()
    assert np.isnan(step.apply(result)[1]).all()
    np.testing.assert_array_equal(result[2], alone)


@every_step
@pytest.mark.filterwarnings("error")
def test_one_value_that_is_not_there_makes_its_clip_nan(step):
    attribution = random_attribution(2, 3, 4, 4)
    attribution[1, 0, 2, 1] = np.nan
    result = step.apply(attribution)
    assert np.isfinite(result[0]).all()
    assert np.isnan(result[1]).all()


@every_step
def test_no_clips_give_no_clips(step):
    assert step.apply(np.empty((0, 2, 3, 4), np.float32)).shape == (0, 2, 3, 4)


def test_integer_counts_are_taken_as_weights():
    counts = np.zeros((1, 3, 3), np.int64)
    counts[0, 1, 1] = 10
    smooth = Focus(smoothing=1).apply(counts)
    np.testing.assert_allclose(smooth.sum(), 1)
    assert (smooth > 0.01).all()


@pytest.mark.parametrize(
    ("step", "arguments", "message"),
    [
        (Threshold, {"kind": "median"}, "kind: 'median' .*percentile, sigma, otsu"),
        (Threshold, {"percentile": -0.1}, "percentile: -0.1"),
        (Threshold, {"percentile": 100.5}, "percentile: 100.5"),
        (Threshold, {"percentile": np.nan}, "percentile: nan"),
        (Threshold, {"kind": "sigma", "n_sigma": np.nan}, "n_sigma: nan"),
        (Focus, {"smoothing": -1.0}, "smoothing: -1.0"),
        (Focus, {"smoothing": np.nan}, "smoothing: nan"),
        (Focus, {"temperature": 0.0}, "temperature: 0.0"),
        (Focus, {"temperature": -2.0}, "temperature: -2.0"),
        (Focus, {"temperature": np.nan}, "temperature: nan"),
        (Focus, {"temperature": np.inf}, "temperature: inf"),
    ],
)
def test_a_bad_parameter_is_named_with_its_value(step, arguments, message):
    with pytest.raises(ValueError, match=message):
        step(**arguments)


def test_steps_are_applied_in_their_order():
    attribution = random_attribution(2, 3, 6, 6)
    cut, smooth = Threshold(percentile=80), Focus(smoothing=1)
    cut_first = apply_steps(attribution, [cut, smooth])
    np.testing.assert_array_equal(cut_first, smooth.apply(cut.apply(attribution)))
    assert (
        share_kept(apply_steps(attribution, [smooth, cut])).max()
        < 0.25
        < share_kept(cut_first).min()
    )
    assert apply_steps(attribution, []) is attribution


def test_steps_are_named_in_words():
    assert steps_name([]) == "as stored"
    steps = [Threshold(kind="sigma", n_sigma=1.5, per_frame=True), Focus(temperature=0.5)]
    assert steps_name(steps) == "sigma 1.5, per frame, then temperature 0.5"
    assert steps_name([Threshold(kind="otsu"), Focus(smoothing=2)]) == "otsu, then smoothing 2"
    assert len({step.name for step in STEPS}) == len(STEPS)


@every_step
def test_parameters_are_json_and_give_the_step_again(step):
    parameters = json.loads(json.dumps(step.parameters))
    kind = {"threshold": Threshold, "focus": Focus}[parameters.pop("step")]
    assert kind(**parameters) == step


def test_parameters_of_another_kind_are_not_recorded():
    assert Threshold(kind="otsu", percentile=90).parameters == {
        **{"step": "threshold", "kind": "otsu", "per_frame": False}
    }


@given(attributions(hnp.array_shapes(min_dims=4, max_dims=4, max_side=6)))
def test_stored_parts_give_back_the_joint_attribution(attribution):
    temporal = attribution.sum(axis=(-2, -1))
    mass = temporal[..., None, None]
    uniform = 1 / np.prod(attribution.shape[-2:])
    spatial = np.where(mass > 0, attribution / np.where(mass > 0, mass, 1), uniform)
    joint = joint_attribution(spatial.astype(np.float16), temporal.astype(np.float32))
    assert joint.dtype == np.float32
    np.testing.assert_allclose(joint, attribution, rtol=2e-3, atol=1e-7)
    np.testing.assert_allclose(joint.sum(axis=CLIP), 1, atol=1e-3)
