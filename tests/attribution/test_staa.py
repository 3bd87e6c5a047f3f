"""STAA's tensor functions against naive NumPy loops of the formula, and its invariants."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.attribution.staa import (
    cls_attention,
    divided_attention,
    frame_attention,
    pooled_attention,
    spatial_temporal,
)

sizes = st.tuples(*(st.integers(1, 4) for _ in range(4)))
"""Clips, times, heads, patches."""

scores = st.floats(-8, 8, width=32)


def softmax(values):
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


@st.composite
def attention(draw):
    """CLS rows (clips, heads, T, 1 + P) and temporal matrices (clips, heads, P, T, T), float64."""
    clips, times, heads, patches = draw(sizes)
    rows = draw(hnp.arrays(np.float64, (clips, heads, times, 1 + patches), elements=scores))
    mixing = draw(hnp.arrays(np.float64, (clips, heads, patches, times, times), elements=scores))
    return softmax(rows), softmax(mixing)


def tensors(*arrays):
    return [torch.from_numpy(array).float() for array in arrays]


def naive_divided_attention(cls_rows, temporal, residual):
    """A[t,p] = (1/T) sum_t' s[t',p] B_p[t',t], one element at a time."""
    *lead, times, tokens = cls_rows.shape
    joint = np.zeros((*lead, times, tokens - 1))
    for clip in np.ndindex(*lead):
        for source in range(times):
            row = cls_rows[clip][source, 1:] / cls_rows[clip][source, 1:].sum()
            for patch in range(tokens - 1):
                matrix = temporal[clip][patch]
                if residual:
                    matrix = (matrix + np.identity(times)) / 2
                for time in range(times):
                    joint[clip][time, patch] += row[patch] * matrix[source, time] / times
    return joint


@pytest.mark.parametrize("residual", [False, True])
@given(attention=attention())
def test_joint_attribution_is_the_formula(attention, residual):
    joint = divided_attention(*tensors(*attention), residual=residual)
    naive = naive_divided_attention(*attention, residual)
    np.testing.assert_allclose(joint.numpy(), naive, atol=1e-6)


@pytest.mark.parametrize("residual", [False, True])
@given(attention=attention())
def test_joint_attribution_is_a_distribution(attention, residual):
    joint = divided_attention(*tensors(*attention), residual=residual)
    *lead, times, tokens = attention[0].shape
    assert joint.shape == (*lead, times, tokens - 1)
    assert joint.dtype is torch.float32
    assert (joint >= 0).all()
    np.testing.assert_allclose(joint.sum(dim=(-2, -1)), 1, atol=1e-5)


@given(attention())
def test_spatial_times_temporal_is_the_joint_attribution(attention):
    joint = divided_attention(*tensors(*attention))
    spatial, temporal = spatial_temporal(joint)
    assert (spatial >= 0).all()
    assert (temporal >= 0).all()
    np.testing.assert_allclose(spatial * temporal[..., None], joint, atol=1e-6)
    np.testing.assert_allclose(spatial.sum(dim=-1), 1, atol=1e-5)
    np.testing.assert_allclose(temporal.sum(dim=-1), 1, atol=1e-5)


@pytest.mark.parametrize("residual", [False, True])
@given(attention=attention())
def test_without_mixing_over_time_every_frame_keeps_its_own_row(attention, residual):
    cls_rows, temporal = attention
    temporal = np.broadcast_to(np.identity(temporal.shape[-1]), temporal.shape).copy()
    joint = divided_attention(*tensors(cls_rows, temporal), residual=residual)
    rows = cls_rows[..., 1:]
    expected = rows / rows.sum(axis=-1, keepdims=True) / rows.shape[-2]
    np.testing.assert_allclose(joint.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(spatial_temporal(joint)[1], 1 / rows.shape[-2], atol=1e-6)


@pytest.mark.parametrize("residual", [False, True])
@given(size=sizes)
def test_uniform_attention_gives_a_uniform_attribution(size, residual):
    clips, times, heads, patches = size
    joint = divided_attention(
        torch.full((clips, heads, times, 1 + patches), 1 / (1 + patches)),
        torch.full((clips, heads, patches, times, times), 1 / times),
        residual=residual,
    )
    np.testing.assert_allclose(joint, 1 / (times * patches), rtol=1e-5)


@given(attention(), st.data())
def test_time_is_carried_from_the_query_to_the_key_it_attends_to(attention, data):
    """With all queries on one frame, that frame gets everything: the direction of B_p[t',t]."""
    cls_rows, temporal = attention
    looked_at = data.draw(st.integers(0, temporal.shape[-1] - 1))
    temporal = np.zeros_like(temporal)
    temporal[..., looked_at] = 1
    _, share = spatial_temporal(divided_attention(*tensors(cls_rows, temporal)))
    expected = np.eye(share.shape[-1])[looked_at]
    np.testing.assert_allclose(share, np.broadcast_to(expected, share.shape), atol=1e-6)


@given(attention(), st.data())
def test_clips_are_independent_and_reordering_patches_reorders_the_result(attention, data):
    cls_rows, temporal = tensors(*attention)
    joint = divided_attention(cls_rows, temporal)
    alone = torch.cat(
        [divided_attention(cls_rows[i : i + 1], temporal[i : i + 1]) for i in range(len(joint))]
    )
    torch.testing.assert_close(joint, alone)
    order = torch.tensor(data.draw(st.permutations(range(joint.shape[-1]))))
    columns = torch.cat([torch.zeros(1, dtype=torch.int64), order + 1])
    reordered = divided_attention(cls_rows[..., columns], temporal[..., order, :, :])
    torch.testing.assert_close(reordered, joint[..., order])


@given(attention(), st.floats(0, 0.95))
def test_what_cls_gives_itself_does_not_count(attention, own_share):
    cls_rows, temporal = attention
    other = cls_rows * (1 - own_share)
    other[..., 0] += own_share
    np.testing.assert_allclose(
        divided_attention(*tensors(other, temporal)),
        divided_attention(*tensors(cls_rows, temporal)),
        atol=1e-5,
    )


def naive_cls_attention(cls_row):
    """A[n] = a[n] / sum_m a[m] over all tokens but CLS, one row at a time."""
    shares = np.zeros((*cls_row.shape[:-1], cls_row.shape[-1] - 1))
    for index in np.ndindex(*cls_row.shape[:-1]):
        row = cls_row[index]
        shares[index] = [value / sum(row[1:]) for value in row[1:]]
    return shares


@given(attention())
def test_a_cls_row_gives_the_shares_of_all_tokens_but_cls(attention):
    (rows,) = tensors(attention[0][:, :, 0])
    shares = cls_attention(rows)
    np.testing.assert_allclose(shares, naive_cls_attention(rows.numpy()), atol=1e-6)
    np.testing.assert_allclose(shares.sum(dim=-1), 1, atol=1e-5)


@given(attention())
def test_frames_with_a_cls_of_their_own_count_alike(attention):
    (rows,) = tensors(attention[0])
    joint = frame_attention(rows)
    n_times = rows.shape[-2]
    naive = naive_cls_attention(rows.numpy()) / n_times
    np.testing.assert_allclose(joint, naive, atol=1e-6)
    np.testing.assert_allclose(spatial_temporal(joint)[1], 1 / n_times, rtol=1e-5)


@given(attention())
def test_a_pooled_row_is_its_own_shares(attention):
    (rows,) = tensors(attention[0][:, :, 0])
    shares = pooled_attention(rows)
    np.testing.assert_allclose(shares, rows.numpy(), atol=1e-6)
    np.testing.assert_allclose(shares.sum(dim=-1), 1, atol=1e-5)


def test_a_frame_without_mass_is_uniform_in_space_and_zero_in_time():
    joint = torch.tensor([[[0.75, 0.25, 0.0], [0.0, 0.0, 0.0]]])
    spatial, temporal = spatial_temporal(joint)
    np.testing.assert_allclose(temporal, [[1, 0]])
    np.testing.assert_allclose(spatial, [[[0.75, 0.25, 0], [1 / 3, 1 / 3, 1 / 3]]])


def test_a_frame_with_the_smallest_mass_still_sums_to_1():
    joint = torch.tensor([[[0.5, 0.5], [3e-40, 1e-40]]])
    spatial, _ = spatial_temporal(joint)
    np.testing.assert_allclose(spatial[0, 1], [0.75, 0.25], rtol=1e-4)


def test_a_row_that_is_all_on_cls_itself_gives_no_nan():
    """A saturated softmax: CLS attends to itself alone in one frame, in float32 exactly."""
    cls_rows = torch.tensor([[[1.0, 0.0, 0.0], [0.2, 0.6, 0.2]]])
    temporal = torch.eye(2).expand(1, 2, 2, 2)
    assert divided_attention(cls_rows, temporal).isfinite().all()


def test_nan_attention_stays_nan():
    """A model that breaks down must be seen in the row, not become a uniform attribution."""
    cls_rows = torch.full((1, 2, 3), float("nan"))
    joint = divided_attention(cls_rows, torch.eye(2).expand(1, 2, 2, 2))
    spatial, temporal = spatial_temporal(joint)
    assert temporal.isnan().all()
    assert not spatial.isfinite().any()
