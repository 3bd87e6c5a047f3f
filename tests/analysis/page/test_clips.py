"""Clips on the page: attributions read back from their text, and rows read one by one."""

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.page.clips import Attributions, attribution_data
from pipeline.store.opening import open_store
from pipeline.store.run_folder import store_url
from tests.analysis.stores import random_columns, small_layout, write_run


def read_back(data):
    return np.frombuffer(base64.b64decode(data["map"]), np.uint8).reshape(data["grid"])


def random_attribution(seed, shape=(4, 5, 6), concentration=0.5):
    rng = np.random.default_rng(seed)
    spatial = rng.gamma(concentration, size=shape) + 1e-6
    temporal = rng.gamma(1.0, size=shape[0]) + 1e-6
    return spatial / spatial.sum(axis=(1, 2), keepdims=True), temporal / temporal.sum()


@given(st.integers(0, 2**32 - 1))
def test_bytes_are_the_attribution_within_rounding(seed):
    spatial, temporal = random_attribution(seed)
    data = attribution_data(spatial, temporal)
    joint = spatial * temporal[:, None, None] * spatial.size
    shares = (temporal / temporal.max())[:, None, None]
    low, high = np.quantile(spatial, [0.02, 0.99])
    expected = np.clip((spatial - low) / (high - low), 0, 1) * shares
    assert np.abs((read_back(data) / 255) ** 2 - expected).max() <= 0.01
    assert (data["low"], data["high"]) == pytest.approx((30 * low, 30 * high))
    assert data["top"] == pytest.approx(joint.max())
    assert joint[tuple(data["peak"])] == joint.max()
    assert np.mean(data["share"]) == pytest.approx(1)


def test_a_logo_and_a_nearly_uniform_map_leave_contrast():
    spatial, temporal = random_attribution(1, (8, 14, 14), concentration=2.0)
    spatial[:, 0, 0] += 50
    logo = attribution_data(spatial / spatial.sum(axis=(1, 2), keepdims=True), temporal)
    rest = read_back(logo)[:, 5:].astype(int)
    assert rest.std() > 30
    flat = np.random.default_rng(2).uniform(0.99, 1.01, (8, 14, 14))
    flat /= flat.sum(axis=(1, 2), keepdims=True)
    when = np.array([8, 1, 1, 1, 1, 1, 1, 1]) / 15
    near = attribution_data(flat, when)
    assert near["range"] < 0.1
    # Also in the time step that has most.
    assert np.ptp(read_back(near)[0].astype(int)) > 250


def test_a_constant_map_is_no_error():
    data = attribution_data(np.full((2, 2, 2), 0.25), np.array([0.5, 0.5]))
    assert data["top"] == pytest.approx(1)


def test_rows_are_read_in_their_order(tmp_path):
    layout = small_layout(11)
    columns = random_columns(layout)
    store = open_store(store_url(write_run(tmp_path / "run", layout, columns)))
    rows = np.array([0, 3, 4, 10])
    read = list(Attributions(store).read(rows))
    assert len(read) == 4
    for row, arrays in zip(rows, read, strict=True):
        assert (arrays["spatial"] == columns["spatial"][row]).all()
        assert (arrays["frame_index"] == columns["frame_index"][row]).all()
