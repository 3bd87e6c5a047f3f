"""Threshold and focusing: what must hold of any attribution, and references written another way."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.focus import dynamic_threshold, focus_attention, joint_attribution

KINDS = ["percentile", "sigma", "otsu"]
CLIP = (-3, -2, -1)

quick = settings(deadline=None, max_examples=60)
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


@quick
@given(attributions(), st.sampled_from(KINDS), st.booleans())
def test_thresholded_is_a_distribution_on_part_of_the_support(attribution, kind, per_frame):
    kept = dynamic_threshold(attribution, kind=kind, per_frame=per_frame)
    assert kept.shape == attribution.shape
    assert (kept >= 0).all()
    np.testing.assert_allclose(kept.sum(axis=CLIP), 1, rtol=1e-6)
    assert not (kept > 0)[attribution == 0].any()
    # One factor for the whole clip: what is kept keeps its proportions.
    shares = np.divide(kept, attribution, out=np.zeros_like(kept), where=attribution > 0)
    largest = shares.max(axis=CLIP, keepdims=True)
    assert np.all((shares == 0) | np.isclose(shares, largest))


@quick
@given(attributions(), st.sampled_from(KINDS), st.booleans())
def test_a_threshold_keeps_the_largest_and_nothing_below_what_it_drops(
    attribution, kind, per_frame
):
    kept = dynamic_threshold(attribution, kind=kind, per_frame=per_frame) > 0
    assert kept[attribution == attribution.max(axis=CLIP, keepdims=True)].all()
    n_values = int(np.prod(attribution.shape[-2:] if per_frame else attribution.shape[-3:]))
    pairs = zip(attribution.reshape(-1, n_values), kept.reshape(-1, n_values), strict=True)
    for values, chosen in pairs:
        dropped = values[~chosen]
        if dropped.size and dropped.max() > 0:
            assert values[chosen].min() > dropped.max()


@quick
@given(distinct, st.floats(0, 100))
def test_percentile_keeps_that_share_of_distinct_values(attribution, percentile):
    kept = (dynamic_threshold(attribution, percentile=percentile) > 0).sum()
    wanted = attribution.size * (1 - percentile / 100)
    assert abs(kept - wanted) <= 1


@pytest.mark.parametrize(("percentile", "kept"), [(0, 8), (50, 4), (75, 2), (100, 1)])
def test_percentile_of_eight_values(percentile, kept):
    attribution = np.arange(1.0, 9).reshape(2, 2, 2) / 36
    assert (dynamic_threshold(attribution, percentile=percentile) > 0).sum() == kept


@pytest.mark.parametrize("n_sigma", [-0.5, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("per_frame", [False, True])
def test_sigma_is_mean_plus_deviations(n_sigma, per_frame):
    attribution = random_attribution(3, 6, 7)
    kept = dynamic_threshold(attribution, kind="sigma", n_sigma=n_sigma, per_frame=per_frame) > 0
    groups = attribution.reshape(3 if per_frame else 1, -1)
    for values, chosen in zip(groups, kept.reshape(groups.shape), strict=True):
        mean = sum(values) / len(values)
        deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
        assert np.array_equal(chosen, values >= mean + n_sigma * deviation)


def within_class_variance(values, threshold):
    """Otsu's other form: what is left within the two groups; the best split has least."""
    groups = values[values < threshold], values[values >= threshold]
    return sum(len(group) * np.var(group) for group in groups if len(group))


@quick
@given(attributions(), st.booleans())
def test_otsu_is_the_best_of_all_splits(attribution, per_frame):
    if per_frame:  # One frame a clip, so that a clip's renormalisation is the frame's.
        attribution = attribution[..., :1, :, :]
        assume((attribution.sum(axis=CLIP) > 0).all())
    kept = dynamic_threshold(attribution, kind="otsu", per_frame=per_frame)
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
    per_frame = dynamic_threshold(attribution, kind="otsu", per_frame=True) > 0
    assert np.array_equal(per_frame, high)
    per_clip = dynamic_threshold(attribution, kind="otsu") > 0
    assert np.array_equal(per_clip[0], high[0])
    assert not per_clip[1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_per_frame_is_the_threshold_of_each_frame_alone(kind):
    attribution = random_attribution(2, 3, 5, 4)
    together = dynamic_threshold(attribution, kind=kind, per_frame=True) > 0
    for clip in range(2):
        for time in range(3):
            alone = dynamic_threshold(attribution[clip, time : time + 1], kind=kind) > 0
            assert np.array_equal(together[clip, time], alone[0])
    assert (together.sum(axis=(-2, -1)) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), (2, 3, 1, 1)])
def test_a_grid_of_one_patch_keeps_it_in_every_frame(kind, shape):
    attribution = random_attribution(*shape)
    kept = dynamic_threshold(attribution, kind=kind, per_frame=True)
    np.testing.assert_allclose(kept, attribution, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flat_attribution_is_kept_whole(kind):
    flat = np.full((2, 4, 3, 2), 1 / 24)
    np.testing.assert_allclose(dynamic_threshold(flat, kind=kind), flat)


@quick
@given(attributions(dtype=np.float32))
def test_focus_of_temperature_1_without_smoothing_changes_nothing(attribution):
    np.testing.assert_allclose(focus_attention(attribution), attribution, rtol=1e-5, atol=1e-7)


@quick
@given(attributions(), st.floats(0.1, 10), st.sampled_from([0.0, 0.4, 1.0, 3.0]))
def test_focused_is_a_distribution(attribution, temperature, smoothing):
    focused = focus_attention(attribution, temperature=temperature, smoothing=smoothing)
    assert focused.shape == attribution.shape
    assert (focused >= 0).all()
    np.testing.assert_allclose(focused.sum(axis=CLIP), 1, rtol=1e-6)


@quick
@given(attributions(), st.floats(0.1, 10))
def test_focus_without_smoothing_keeps_the_order(attribution, temperature):
    focused = focus_attention(attribution, temperature=temperature)
    for before, after in zip(
        attribution.reshape(-1, np.prod(attribution.shape[-3:])),
        focused.reshape(-1, np.prod(attribution.shape[-3:])),
        strict=True,
    ):
        assert (np.diff(after[np.argsort(before)]) >= 0).all()
        assert np.array_equal(after == 0, before == 0)


@quick
@given(attributions(hnp.array_shapes(min_dims=3, max_dims=3)), st.floats(0.1, 8), st.floats(0.1, 8))
def test_a_lower_temperature_never_raises_the_entropy(attribution, first, second):
    colder, warmer = sorted([first, second])
    sharp = focus_attention(attribution, temperature=colder)
    flat = focus_attention(attribution, temperature=warmer)
    assert entropy(sharp) <= entropy(flat) + 1e-9


def test_temperature_is_the_power_1_over_it():
    attribution = np.array([[[0.1, 0.2, 0.7]]])
    squared = np.array([0.01, 0.04, 0.49]) / 0.54
    np.testing.assert_allclose(focus_attention(attribution, temperature=0.5)[0, 0], squared)
    sharpened = focus_attention(attribution, temperature=0.1)
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
    smooth = focus_attention(attribution, smoothing=sigma)
    for clip in range(2):
        for time in range(3):
            expected = gaussian_by_matrix(attribution[clip, time], sigma)
            np.testing.assert_allclose(smooth[clip, time], expected, atol=1e-9)


@quick
@given(attributions(), st.floats(0.1, 5))
def test_smoothing_leaves_each_frame_its_share(attribution, smoothing):
    """Else attention at a border would gain weight from smoothing, and `when` with it."""
    smooth = focus_attention(attribution, smoothing=smoothing)
    np.testing.assert_allclose(smooth.sum(axis=(-2, -1)), attribution.sum(axis=(-2, -1)), atol=1e-9)


def test_smoothing_comes_before_sharpening():
    attribution = random_attribution(1, 6, 6)
    both = focus_attention(attribution, smoothing=1.0, temperature=0.5)
    expected = gaussian_by_matrix(attribution[0], 1.0) ** 2
    np.testing.assert_allclose(both[0], expected / expected.sum(), rtol=1e-6)


@pytest.mark.parametrize("arguments", [{"kind": kind, "per_frame": True} for kind in KINDS]
                         + [{"smoothing": 1.0, "temperature": 0.3}])  # fmt: skip
def test_twice_gives_the_same_bytes_and_leaves_the_input_alone(arguments):
    attribution = random_attribution(2, 3, 6, 6, dtype=np.float32)
    original = attribution.tobytes()
    function = dynamic_threshold if "kind" in arguments else focus_attention
    assert (
        function(attribution, **arguments).tobytes() == function(attribution, **arguments).tobytes()
    )
    assert attribution.tobytes() == original


FINE_GRIDS = [(8, 14, 14), (16, 56, 56), (32, 64, 64)]
CHOICES = [
    *(pytest.param(dynamic_threshold, {"kind": kind}, id=kind) for kind in KINDS),
    pytest.param(dynamic_threshold, {"kind": "sigma", "per_frame": True}, id="sigma-per-frame"),
    pytest.param(focus_attention, {"temperature": 0.25}, id="sharpened"),
    pytest.param(focus_attention, {"temperature": 8.0}, id="flattened"),
    pytest.param(focus_attention, {"smoothing": 1.0}, id="smoothed"),
]


@pytest.mark.parametrize("shape", FINE_GRIDS, ids=str)
@pytest.mark.parametrize(("function", "arguments"), CHOICES)
def test_float16_gives_what_float64_gives_of_the_same_values(function, arguments, shape):
    """A share of 1e-5 and its square are lost in float16, and sums of 1e5 powers overflow it."""
    half = random_attribution(*shape, dtype=np.float16)
    result = function(half, **arguments)
    expected = function(half.astype(np.float64), **arguments)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(result.sum(dtype=np.float64), 1, atol=1e-5)


@pytest.mark.parametrize(("function", "arguments"), CHOICES)
@pytest.mark.parametrize("nothing", [np.nan, 0.0])
@pytest.mark.filterwarnings("error")
def test_a_clip_without_attribution_is_nan_and_its_neighbour_is_not(function, arguments, nothing):
    attribution = random_attribution(3, 2, 4, 4, dtype=np.float32)
    alone = function(attribution[2], **arguments)
    attribution[1] = nothing
    result = function(attribution, **arguments)
    assert np.isnan(result[1]).all()
    np.testing.assert_allclose(result[2], alone, rtol=1e-5)


def test_integer_counts_are_taken_as_weights():
    counts = np.zeros((1, 3, 3), np.int64)
    counts[0, 1, 1] = 10
    smooth = focus_attention(counts, smoothing=1.0)
    np.testing.assert_allclose(smooth.sum(), 1)
    assert (smooth > 0.01).all()


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (dynamic_threshold, {"kind": "median"}, "kind: 'median' .*percentile, sigma, otsu"),
        (dynamic_threshold, {"percentile": -0.1}, "percentile: -0.1"),
        (dynamic_threshold, {"percentile": 100.5}, "percentile: 100.5"),
        (dynamic_threshold, {"percentile": np.nan}, "percentile: nan"),
        (dynamic_threshold, {"kind": "sigma", "n_sigma": np.nan}, "n_sigma: nan"),
        (focus_attention, {"smoothing": -1.0}, "smoothing: -1.0"),
        (focus_attention, {"smoothing": np.nan}, "smoothing: nan"),
        (focus_attention, {"temperature": 0.0}, "temperature: 0.0"),
        (focus_attention, {"temperature": -2.0}, "temperature: -2.0"),
        (focus_attention, {"temperature": np.nan}, "temperature: nan"),
        (focus_attention, {"temperature": np.inf}, "temperature: inf"),
    ],
)
def test_a_bad_argument_is_named_with_its_value(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(random_attribution(2, 3, 3), **arguments)


@quick
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
