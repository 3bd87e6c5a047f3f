"""Sums, quantiles and merges by group, against pandas."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import group_statistics, open_run, scores
from analysis.sums import N_BINS, Rows, Sums


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_sums_by_any_columns_are_those_of_pandas(scored, data):
    url, _, _ = scored
    by = data.draw(
        st.lists(st.sampled_from(["label", "prediction", "correct"]), unique=True, min_size=1)
    )
    clips = data.draw(st.lists(st.integers(0, 22), unique=True, min_size=1))
    ds = open_run(url).isel(clip=clips).chunk(clip=data.draw(st.integers(1, 9)))
    grouped = group_statistics(ds, by)
    table = scores(url).iloc[clips]
    table = table[table["status"] == "ok"]
    keys = {
        "label": table["label_index"],
        "prediction": table["prediction_index"],
        "correct": table["correct"].astype("float").fillna(-1).astype(int),
    }
    expected = table.groupby([keys[name] for name in by])
    assert grouped["n"].values.tolist() == expected.size().tolist()
    for name in ("entropy", "gini", "probability", "label_probability"):
        one = grouped.sel(score=name)
        np.testing.assert_allclose(one["mean"], expected[name].mean(), rtol=1e-5)
        np.testing.assert_allclose(one["std"], expected[name].std(ddof=0), atol=1e-6)
        for q in (0.05, 0.5, 0.95):
            # Within a bin of a value that as many lie below, as the quantile asks for.
            below = expected[name].quantile(q, interpolation="lower")
            above = expected[name].quantile(q, interpolation="higher")
            found = one[f"q{int(100 * q):02d}"].values
            assert (found >= below - 1.001 / N_BINS).all()
            assert (found <= above + 1.001 / N_BINS).all()


@st.composite
def blocks(draw):
    """Values of rows with their keys, cut into blocks."""
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.random((n, 3))
    values[rng.random(n) < 0.2, 1] = np.nan
    keys = {"label": rng.integers(-1, 3, n), "split": rng.choice(["train", "val"], n)}
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=3)))
    return values, keys, [slice(a, b) for a, b in zip([0, *cuts], [*cuts, n], strict=True) if a < b]


@given(block=blocks())
def test_merged_sums_of_blocks_are_those_of_pandas_over_all(block):
    values, keys, parts = block
    origin = np.array([0.5, 0.25, 100.0])
    blocks = [
        Sums.of(
            {name: key[part] for name, key in keys.items()},
            Rows.of(values[part].copy(), origin, n_histograms=2, optional=slice(1, 2)),
            histograms=True,
        )
        for part in parts
    ]
    merged = Sums.merged(blocks)
    grouped = pd.DataFrame(values).groupby([keys["label"], keys["split"]])
    assert list(merged.keys) == list(grouped.size().index)
    assert merged.n.tolist() == grouped.size().tolist()
    np.testing.assert_array_equal(merged.count[:, 1], grouped.count()[1])
    np.testing.assert_allclose(merged.mean, grouped.mean(), rtol=1e-9)
    np.testing.assert_allclose(merged.deviation, grouped.std(ddof=0), atol=1e-6)
    counted = ~np.isnan(values[:, 1])
    assert merged.histogram[:, 1].sum() == counted.sum()
    for column, of_values in enumerate((values[:, 0], values[counted, 1])):
        expected = np.histogram(of_values, N_BINS, (0, 1))[0]
        assert merged.histogram[:, column].sum(axis=0).tolist() == expected.tolist()
    # Tables and rows that are still to be counted, in any mixture.
    mixed = Sums.merged([Sums.merged(blocks[:2]), *blocks[2:]])
    np.testing.assert_array_equal(mixed.histogram, merged.histogram)


def test_a_value_that_is_not_optional_and_lost_is_not_passed_over():
    values = np.array([[0.5], [np.nan], [0.25]])
    keys = {"label": np.array([0, 0, 1])}
    sums = Sums.of(keys, Rows.of(values, np.zeros(1), n_histograms=1), histograms=True)
    assert np.isnan(sums.mean[0, 0])
    assert sums.mean[1, 0] == 0.25


def test_groups_are_selected_in_any_order_and_those_that_do_not_occur_are_0():
    keys = {"label": np.array([3, 1, 3])}
    sums = Sums.of(keys, Rows.of(np.array([[1.0], [2.0], [3.0]]), np.zeros(1)))
    chosen = sums.select(pd.MultiIndex.from_arrays([[3, 2, 1]], names=["label"]))
    assert chosen.n.tolist() == [2, 0, 1]
    assert chosen.total[:, 0].tolist() == [4, 0, 2]
    assert np.isnan(chosen.mean[1, 0])


def test_a_quantile_is_within_a_bin_of_numpys():
    values = np.random.default_rng(0).beta(2, 5, (500, 1))
    keys = {"label": np.zeros(500, int)}
    rows = Rows.of(values.copy(), np.zeros(1), n_histograms=1)
    sums = Sums.of(keys, rows, histograms=True)
    for share in (0.01, 0.25, 0.5, 0.99):
        expected = np.quantile(values, share)
        assert abs(sums.quantile(share)[0, 0] - expected) <= 1.001 / N_BINS


def test_rows_that_are_only_counted_have_a_number():
    sums = Sums.of({"label": np.array([1, 1])}, Rows.counted(2))
    assert sums.n.tolist() == [2]
    assert sums.total.shape == (1, 0)
