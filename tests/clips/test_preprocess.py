"""Frames must come out pixel for pixel as transformers' own processor makes them."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import VivitImageProcessor, image_processing_backends
from transformers.models.llava_onevision.video_processing_llava_onevision import (
    LlavaOnevisionVideoProcessor,
)
from transformers.models.timesformer.video_processing_timesformer import TimesformerVideoProcessor
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
from transformers.models.videomae.video_processing_videomae import VideoMAEVideoProcessor
from transformers.models.vivit.video_processing_vivit import VivitVideoProcessor
from transformers.models.vjepa2.video_processing_vjepa2 import VJEPA2VideoProcessor

from pipeline.clips.decode import read_frames
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.errors import ConfigError
from pipeline.models.attributor import normalise
from tests.support.clips import REAL_CLIPS


def assert_equal_to_transformers(frames, processor):
    """Compare uint8 pixels exactly, by rescaling and normalising them as the processor does."""
    preprocessing = Preprocessing.from_processor_dict(processor.to_dict())
    pixels = preprocessing.resize_and_crop(frames)
    values = pixels * preprocessing.rescale_factor - preprocessing.offset
    ours = (values - preprocessing.image_mean) / preprocessing.image_std
    theirs = processor(list(frames), return_tensors="np", input_data_format="channels_last")
    theirs = np.moveaxis(theirs["pixel_values"][0], 1, -1)
    assert ours.shape == theirs.shape
    # One grey level is 0.0078 of the rescaled range: equal within this is equal in uint8.
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@given(
    height=st.integers(17, 200),
    width=st.integers(17, 200),
    shortest_edge=st.integers(16, 96),
    crop=st.tuples(st.integers(8, 128), st.integers(8, 128)),
    resample=st.sampled_from([0, 2, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equal_to_transformers(height, width, shortest_edge, crop, resample, seed):
    frames = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), np.uint8)
    processor = VideoMAEImageProcessorPil(
        size={"shortest_edge": shortest_edge},
        crop_size={"height": crop[0], "width": crop[1]},
        resample=resample,
    )
    assert_equal_to_transformers(frames, processor)


@pytest.mark.parametrize("size", [(240, 320), (320, 240), (224, 224), (233, 415), (100, 90)])
@pytest.mark.parametrize(
    "processor",
    [
        VideoMAEImageProcessorPil(),
        VideoMAEImageProcessorPil(size={"height": 96, "width": 128}, do_center_crop=False),
        VideoMAEImageProcessorPil(do_resize=False, crop_size={"height": 151, "width": 260}),
        VideoMAEImageProcessorPil(do_normalize=False),
        VivitImageProcessor(),
    ],
    ids=["videomae", "exact size", "crop alone", "not normalised", "vivit"],
)
def test_equal_to_transformers_as_configured(size, processor):
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    assert_equal_to_transformers(frames, processor)


class TorchvisionOnTorch:
    """The few functions of torchvision's that transformers' video processors call, on torch.

    torchvision is no requirement of this project. Its resize is torch's, with antialiasing, in
    uint8 where torch can and in float32, rounded, where it can't (as on a GPU); the sizes, the
    crop and the rest are the processors' own.
    """

    def __init__(self, dtype):
        self.dtype = dtype

    InterpolationMode = SimpleNamespace(BILINEAR="bilinear", BICUBIC="bicubic", LANCZOS="lanczos")

    def resize(self, video, size, interpolation, antialias):
        frames = video.flatten(0, -4).to(self.dtype)
        resized = F.interpolate(frames, size=size, mode=interpolation, antialias=antialias)
        return resized.round().clamp(0, 255).to(torch.uint8).unflatten(0, video.shape[:-3])

    def crop(self, video, top, left, height, width):
        return video[..., top : top + height, left : left + width]

    def pad(self, video, padding, fill):
        left, top, right, bottom = padding
        return F.pad(video, (left, right, top, bottom), value=fill)

    def normalize(self, video, mean, std, inplace=False):
        mean, std = torch.as_tensor(mean), torch.as_tensor(std)
        return (video - mean[:, None, None]) / std[:, None, None]


VIDEO_PROCESSORS = {
    "vjepa2": VJEPA2VideoProcessor(crop_size=256),
    "vjepa2 384": VJEPA2VideoProcessor(crop_size=384),
    "videoprism": LlavaOnevisionVideoProcessor(
        size={"height": 288, "width": 288}, do_normalize=False
    ),
    "videomae": VideoMAEVideoProcessor(),
    "vivit": VivitVideoProcessor(),
    "timesformer": TimesformerVideoProcessor(),
}


def assert_near_video_processor(processor, frames, dtype, folder, monkeypatch):
    """Compare with a video processor within a grey level, and nearly always exactly."""
    tv = TorchvisionOnTorch(dtype)
    monkeypatch.setattr(image_processing_backends, "tvF", tv, raising=False)
    monkeypatch.setattr(
        image_processing_backends,
        "pil_torch_interpolation_mapping",
        {2: tv.InterpolationMode.BILINEAR, 3: tv.InterpolationMode.BICUBIC},
    )
    theirs = processor(
        torch.from_numpy(frames),
        do_convert_rgb=False,
        input_data_format="channels_last",
        return_tensors="np",
    )
    theirs = np.moveaxis(next(iter(theirs.values()))[0], 1, -1)

    processor.save_pretrained(folder)
    (file,) = folder.iterdir()
    preprocessing = Preprocessing.from_processor_dict(json.loads(file.read_text()))
    pixels = torch.from_numpy(preprocessing.resize_and_crop(frames))
    ours = normalise(pixels[None], preprocessing, torch.float32)[0].permute(0, 2, 3, 1).numpy()
    assert ours.shape == theirs.shape
    grey_levels = np.abs(ours - theirs) * preprocessing.image_std / preprocessing.rescale_factor
    # Torch's and Pillow's uint8 kernels round twice, each within a level of the exact value.
    assert grey_levels.max() < (1.01 if dtype is torch.float32 else 2.01)
    assert (grey_levels > 1.01).mean() < 5e-4


@pytest.mark.parametrize("size", [(240, 320), (320, 240), (233, 415), (301, 300)])
@pytest.mark.parametrize("name", VIDEO_PROCESSORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_equal_to_transformers_video_processors(name, size, dtype, tmp_path, monkeypatch):
    # Smooth, as frames are.
    noise = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    frames = Preprocessing(shortest_edge=None, resize=size, crop=None).resize_and_crop(noise)
    assert_near_video_processor(VIDEO_PROCESSORS[name], frames, dtype, tmp_path, monkeypatch)


@pytest.mark.parametrize("path", REAL_CLIPS)
@pytest.mark.parametrize("processor", [VideoMAEImageProcessorPil(), VivitImageProcessor()])
def test_equal_to_transformers_on_real_clips(path, processor):
    frames = read_frames(path.read_bytes(), Sampling("uniform", 2)).frames
    assert_equal_to_transformers(frames, processor)


@pytest.mark.parametrize("path", REAL_CLIPS)
@pytest.mark.parametrize("name", VIDEO_PROCESSORS)
def test_equal_to_transformers_video_processors_on_real_clips(name, path, tmp_path, monkeypatch):
    frames = read_frames(path.read_bytes(), Sampling("uniform", 2)).frames
    # In uint8, as on a CPU. In float32 an edge's overshoot isn't cut between the two directions of
    # a bicubic resize, and single pixels are up to 23 grey levels off.
    assert_near_video_processor(VIDEO_PROCESSORS[name], frames, torch.uint8, tmp_path, monkeypatch)


@given(
    size=st.tuples(st.integers(17, 200), st.integers(17, 200)),
    crop=st.tuples(st.integers(8, 128), st.integers(8, 128)),
    seed=st.integers(0, 2**32 - 1),
)
def test_masks_take_the_frames_way(size, crop, seed):
    masks = np.zeros((1, *size), bool)
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
    masks[0, top : top + 60, left : left + 60] = True
    preprocessing = Preprocessing(shortest_edge=64, crop=crop)
    shares = preprocessing.resize_and_crop_mask(masks)
    frames = np.repeat(masks[..., None], 3, -1).astype(np.uint8) * 255
    grey = preprocessing.resize_and_crop(frames)[..., 0]
    assert shares.shape == grey.shape
    assert shares.dtype == np.float32
    assert shares.min() >= 0
    assert shares.max() <= 1
    # Pillow rounds uint8 after each of its two passes.
    np.testing.assert_allclose(shares * 255, grey, atol=1.01)


def test_a_mask_of_everything_stays_everything_and_padding_is_nothing():
    preprocessing = Preprocessing(shortest_edge=32, crop=(48, 32))
    shares = preprocessing.resize_and_crop_mask(np.ones((1, 90, 90), bool))
    assert (shares[0, 8:40] == 1).all()
    assert shares.sum() == 32 * 32


def test_crop_box_of_a_landscape_frame():
    assert Preprocessing().resized_size(240, 426) == (224, 397)
    assert Preprocessing().crop_box(240, 426) == (86, 0, 310, 224)
    assert Preprocessing(shortest_edge=100).crop_box(100, 100) == (-62, -62, 162, 162)


def test_values_are_plain():
    preprocessing = Preprocessing.from_processor_dict(VivitImageProcessor().to_dict())
    recorded = json.loads(json.dumps(dataclasses.asdict(preprocessing)))
    assert recorded["shortest_edge"] == 256
    assert recorded["offset"] is True
    assert recorded["resample"] == 2


def test_parameters_of_other_files():
    preprocessing = Preprocessing.from_processor_dict(
        {
            "size": 224,
            "do_center_crop": True,
            "crop_size": 224,
            "image_mean": 0.5,
            "image_std": [0.5, 0.25, 0.5],
            "do_rescale": False,
            "video_processor_type": "VivitVideoProcessor",
        }
    )
    assert preprocessing.shortest_edge == 224
    assert preprocessing.crop == (224, 224)
    assert preprocessing.image_mean == (0.5, 0.5, 0.5)
    assert preprocessing.image_std == (0.5, 0.25, 0.5)
    assert preprocessing.rescale_factor == 1.0
    assert not preprocessing.offset


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"size": {"longest_edge": 224}}, "size"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "size"),
        ({"size": None}, "size"),
        ({"crop_size": {"shortest_edge": 224}}, "crop_size"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_std": None}, "image_std"),
        ({"image_std": [0.0, 1.0, 1.0]}, "image_std"),
        ({"resample": 9}, "resample"),
        ({"do_pad": True}, "do_pad"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
    ],
)
def test_what_cant_be_honoured_is_named(change, key):
    params = VideoMAEImageProcessorPil().to_dict() | change
    with pytest.raises(ConfigError, match=key):
        Preprocessing.from_processor_dict(params)


@pytest.mark.parametrize(
    "arguments",
    [{"resize": (2, 2)}, {"crop": (0, 5)}, {"shortest_edge": 0}],
)
def test_a_size_that_is_none_is_refused(arguments):
    with pytest.raises(ConfigError):
        Preprocessing(**arguments)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"float64 \(2, 8, 8, 3\)"):
        Preprocessing().resize_and_crop(np.zeros((2, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"uint8 \(2, 8, 8\)"):
        Preprocessing().resize_and_crop_mask(np.zeros((2, 8, 8), np.uint8))


def test_a_decode_worker_stays_light():
    code = (
        "import sys, pipeline.clips.decode, pipeline.dataset.manifest, pipeline.clips.preprocess;"
        "print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.stdout.strip() == "[]", loaded.stderr


@pytest.mark.parametrize(
    ("height", "width", "crop", "corners"),
    [
        (100, 200, (90, 100), [(0, 5), (50, 5), (100, 5)]),
        (200, 100, (100, 90), [(5, 0), (5, 50), (5, 100)]),
        # Of a square, the width counts as the longer side.
        (100, 100, (90, 90), [(0, 5), (5, 5), (10, 5)]),
        # What is padded stays in the middle.
        (100, 100, (120, 120), [(-10, -10)] * 3),
    ],
)
def test_crops_lie_along_the_longer_side(height, width, crop, corners):
    for position, corner in zip((0, 0.5, 1), corners, strict=True):
        cropping = Preprocessing(shortest_edge=100, crop=crop, crop_position=position)
        assert cropping.crop_box(height, width)[:2] == corner


@pytest.mark.parametrize("size", [(96, 160), (160, 96), (64, 64), (30, 40)])
@pytest.mark.parametrize("position", [0.0, 0.3, 1.0])
def test_crops_of_a_frame_that_was_resized_once_are_those_of_each(size, position):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for shape in ({"shortest_edge": 48}, {"shortest_edge": None}, {"shortest_edge": 96}):
        preprocessing = Preprocessing(crop=(48, 48), crop_position=position, **shape)
        central = dataclasses.replace(preprocessing, crop_position=0.5)
        cropped = preprocessing.crop_resized(central.resize_frame(frame), size)
        assert np.array_equal(cropped, preprocessing.resize_and_crop(frame[None])[0])
