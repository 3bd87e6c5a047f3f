"""Rescaling and normalisation on the device: the arithmetic of transformers' processors."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import VivitImageProcessor

from pipeline.clips.preprocess import Preprocessing
from pipeline.models.attributor import normalise


@settings(max_examples=20, deadline=None)
@given(
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.1, 1)] * 3),
    factor=st.sampled_from([1 / 255, 1 / 127.5]),
    offset=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_normalise_is_the_processors_arithmetic(mean, std, factor, offset, seed):
    frames = np.random.default_rng(seed).integers(0, 256, (2, 3, 6, 5, 3), np.uint8)
    processor = VivitImageProcessor(
        do_resize=False,
        do_center_crop=False,
        rescale_factor=factor,
        offset=offset,
        image_mean=mean,
        image_std=std,
    )
    preprocessing = Preprocessing.from_processor_dict(processor.to_dict())
    pixels = normalise(torch.from_numpy(frames), preprocessing, torch.float32)
    assert pixels.is_contiguous()
    for clip, values in zip(frames, pixels.numpy(), strict=True):
        expected = processor(list(clip), return_tensors="np", input_data_format="channels_last")
        np.testing.assert_allclose(values, expected["pixel_values"][0], atol=2e-5)


def test_normalise_keeps_its_input_and_gives_the_models_precision():
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16, 1).expand(-1, -1, -1, -1, 3)
    before = frames.clone()
    exact = normalise(frames, Preprocessing(), torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        pixels = normalise(frames, Preprocessing(), dtype)
        assert (pixels.dtype, pixels.shape) == (dtype, (1, 1, 3, 16, 16))
        # Rounded once, at the end.
        assert torch.equal(pixels, exact.to(dtype))
    assert torch.equal(frames, before)
