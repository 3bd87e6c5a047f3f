"""What is copied between host and device is the same bits on both."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.transfer import Staging, host_buffer, narrow_weights, to_host

DTYPES = (torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8, torch.float64)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.device_count() else [])]


@given(
    shapes=st.lists(
        st.tuples(
            st.sampled_from(DTYPES),
            st.lists(st.integers(0, 4), min_size=1, max_size=4),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    ),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.parametrize("device", DEVICES)
def test_tensors_of_any_kind_come_in_one_piece_with_their_bits(device, shapes, seed):
    random = np.random.default_rng(seed)
    columns, expected = {}, {}
    for number, (dtype, shape, is_transposed) in enumerate(shapes):
        size = int(np.prod(shape)) * torch.empty(0, dtype=dtype).element_size()
        bits = torch.from_numpy(random.integers(0, 256, size, np.uint8))
        tensor = bits.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
        tensor = tensor.T if is_transposed and tensor.ndim == 2 else tensor
        columns[str(number)] = tensor.to(device)
        expected[str(number)] = tensor.contiguous().numpy()
    found = to_host(columns)
    assert [*found] == [*columns]
    for name, values in expected.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        assert found[name].tobytes() == values.tobytes()


@pytest.mark.parametrize("device", DEVICES)
def test_frames_are_those_that_are_asked_for_whatever_was_sent_ahead(device):
    random = np.random.default_rng(0)
    batches = [random.integers(0, 256, (2, 3, 4, 4, 3), np.uint8) for _ in range(6)]
    batches.append(random.integers(0, 256, (1, 3, 4, 4, 3), np.uint8))
    staging = Staging(torch.device(device))
    for index, frames in enumerate(batches):
        frames.flags.writeable = False
        got = staging.on_device(frames)
        # Now and then another batch comes than the one that was sent.
        staging.send_ahead(batches[(index + 1 + index % 2) % len(batches)])
        np.testing.assert_array_equal(got.cpu().numpy(), frames)
        np.testing.assert_array_equal(
            staging.on_device(batches[0][:1]).cpu().numpy(), batches[0][:1]
        )


def test_a_host_without_page_locked_memory_gives_ordinary_memory():
    buffer = host_buffer((2, 3))
    assert (buffer.shape, buffer.dtype) == ((2, 3), torch.uint8)
    assert buffer.is_pinned() == bool(torch.cuda.device_count())


def test_only_weights_of_matrix_products_are_narrowed():
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 2), torch.nn.LayerNorm(2), torch.nn.Embedding(3, 2)
    )
    narrow_weights(model, torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert dtypes["0.weight"] == dtypes["0.bias"] == torch.bfloat16
    assert {dtypes[name] for name in ("1.weight", "1.bias", "2.weight")} == {torch.float32}
