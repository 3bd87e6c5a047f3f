"""The families of video classifiers, small and random, with a naive readout for each.

The adapters' results are compared with transformers' own eager model, loaded from the same folder:
whole softmax matrices as a forward hook sees them, and the formula written out in NumPy.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessorPil,
    VideoPrismForVideoClassification,
    VideoPrismVisionConfig,
    VivitConfig,
    VivitForVideoClassification,
    VivitImageProcessor,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
)
from transformers.models.llava_onevision.video_processing_llava_onevision import (
    LlavaOnevisionVideoProcessor,
)
from transformers.models.vjepa2.video_processing_vjepa2 import VJEPA2VideoProcessor

from pipeline.attribution.attention import Scores, first_row, mean_row
from tests.support.checkpoints import CLASS_NAMES, make_model

Matrix = NDArray[np.floating[Any]]
COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "id2label": dict(enumerate(CLASS_NAMES)),
}


@dataclass(frozen=True)
class Family:
    """How tests make a family's checkpoint, and the attribution that they expect."""

    model_class: type[PreTrainedModel]
    config: Callable[..., PretrainedConfig]
    processor: Callable[[int], Any]
    """Makes a processor from the side of a frame, in pixels."""
    sizes: tuple[dict[str, Any], dict[str, Any]]
    many_tokens: dict[str, Any]
    """A configuration with 256 tokens or more to attend to; where all queries are needed, with more
    scores than are formed at a time."""
    readout: Callable[[PreTrainedModel], nn.Module]
    """The attention module that is read by default."""
    read: Callable[[Scores], Tensor]
    naive: Callable[[Matrix, int], Matrix]
    """From the readout's whole softmax (batch, heads, queries, tokens), and T, to (clips, T, P)."""
    input_name: str = "pixel_values"
    naive_logits: Callable[[Tensor, int], Tensor] = field(default=lambda logits, n_clips: logits)
    scale: float = 12.0

    def save(self, path: Path, seed: int = 0, **size: Any) -> Path:
        """Write a random model and its processor to a folder; returns the folder."""
        model = make_model(
            self.model_class,
            self.config(**size),
            seed=seed,
            scale=self.scale,
            output_scale=self.scale,
        )
        model.save_pretrained(path)
        side = getattr(model.config, "crop_size", None) or model.config.image_size
        self.processor(side).save_pretrained(path)
        return path

    def eager(self, folder: Path) -> PreTrainedModel:
        """Load the untouched model with transformers alone."""
        return self.model_class.from_pretrained(folder, attn_implementation="eager").eval()


@torch.no_grad()
def eager_reference(family: Family, model: PreTrainedModel, clips: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the whole softmax of the readout's attention, from transformers' eager model."""
    seen = []
    handle = family.readout(model).register_forward_hook(
        lambda module, args, output: seen.append(output[1])
    )
    try:
        # TimeSformer's modules return their softmax only on request.
        logits = model(**{family.input_name: clips}, output_attentions=True).logits
    finally:
        handle.remove()
    return family.naive_logits(logits, len(clips)), seen[-1]


def naive_cls(matrix: Matrix, n_times: int) -> Matrix:
    """CLS's row without its own column, renormalised."""
    row = matrix.mean(axis=1)[:, 0, 1:]
    return (row / row.sum(axis=1, keepdims=True)).reshape(len(row), n_times, -1)


def naive_mean_pooling(matrix: Matrix, n_times: int) -> Matrix:
    """What each token gets from all queries, on average."""
    return matrix.mean(axis=1).mean(axis=1).reshape(len(matrix), n_times, -1)


def naive_first_query(matrix: Matrix, n_times: int) -> Matrix:
    """The whole row of the first query."""
    return matrix.mean(axis=1)[:, 0].reshape(len(matrix), n_times, -1)


def pil_processor(side: int) -> VideoMAEImageProcessorPil:
    """Make VideoMAE's processor, which is TimeSformer's too."""
    return VideoMAEImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )


def naive_patch_major_cls(matrix: Matrix, n_times: int) -> Matrix:
    """CLS's row as in `naive_cls`, for tokens ordered by patch, and by time within a patch."""
    row = naive_cls(matrix, n_times).reshape(len(matrix), -1)
    joint = np.empty((len(row), n_times, row.shape[1] // n_times))
    for token in range(row.shape[1]):
        joint[:, token % n_times, token // n_times] = row[:, token]
    return joint


def naive_frames(matrix: Matrix, n_times: int) -> Matrix:
    """CLS's row in each frame; frames count equally."""
    return naive_cls(matrix, 1).reshape(len(matrix) // n_times, n_times, -1) / n_times


def timesformer(attention_type: str, **differences: Any) -> Family:
    """TimeSformer with attention that isn't divided; tests/attribution has the divided one."""
    return Family(
        model_class=TimesformerForVideoClassification,
        config=partial(
            TimesformerConfig,
            **{**COMMON, "image_size": 16, "patch_size": 8, "num_frames": 3},
            attention_type=attention_type,
        ),
        processor=pil_processor,
        sizes=(
            {},
            {"num_hidden_layers": 3, "image_size": 24, "num_frames": 4, "qkv_bias": False},
        ),
        readout=lambda model: model.timesformer.encoder.layer[-1].attention.attention,
        read=first_row,
        **differences,
    )


VIDEOMAE = Family(
    model_class=VideoMAEForVideoClassification,
    config=partial(
        VideoMAEConfig,
        **{**COMMON, "image_size": 16, "patch_size": 8, "num_frames": 6},
    ),
    processor=pil_processor,
    sizes=(
        {},
        {"num_hidden_layers": 3, "image_size": 24, "num_frames": 8, "qv_bias": False},
    ),
    many_tokens={"image_size": 136},
    readout=lambda model: model.videomae.encoder.layer[-1].attention.attention,
    read=mean_row,
    naive=naive_mean_pooling,
)

FAMILIES = {
    "vivit": Family(
        model_class=VivitForVideoClassification,
        config=partial(
            VivitConfig,
            **{**COMMON, "image_size": 16, "num_frames": 6, "tubelet_size": [2, 8, 8]},
        ),
        processor=lambda side: VivitImageProcessor(
            size={"shortest_edge": side + 2}, crop_size={"height": side, "width": side}
        ),
        sizes=(
            {},
            {
                "num_hidden_layers": 3,
                "image_size": 24,
                "num_frames": 8,
                "hidden_size": 36,
                "num_attention_heads": 3,
                "qkv_bias": False,
            },
        ),
        many_tokens={"image_size": 136},
        readout=lambda model: model.vivit.layers[-1].attention,
        read=first_row,
        naive=naive_cls,
    ),
    "videomae": VIDEOMAE,
    "videomae without mean pooling": replace(
        VIDEOMAE,
        config=partial(VIDEOMAE.config, use_mean_pooling=False),
        read=first_row,
        naive=naive_first_query,
    ),
    "vjepa2": Family(
        model_class=VJEPA2ForVideoClassification,
        config=partial(
            VJEPA2Config,
            hidden_size=32,
            mlp_ratio=2.0,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_pooler_layers=2,
            crop_size=16,
            patch_size=8,
            frames_per_clip=6,
            pred_hidden_size=16,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
            id2label=dict(enumerate(CLASS_NAMES)),
        ),
        processor=lambda side: VJEPA2VideoProcessor(crop_size=side),
        sizes=(
            {},
            {
                "num_pooler_layers": 0,
                "crop_size": 24,
                "frames_per_clip": 8,
                "hidden_size": 36,
                "num_attention_heads": 3,
            },
        ),
        many_tokens={"crop_size": 136},
        readout=lambda model: model.pooler.cross_attention_layer.cross_attn,
        read=first_row,
        naive=naive_first_query,
        input_name="pixel_values_videos",
    ),
    "timesformer joint": timesformer(
        "joint_space_time", many_tokens={"image_size": 64}, naive=naive_patch_major_cls
    ),
    "timesformer space": timesformer(
        "space_only",
        many_tokens={"image_size": 128},
        naive=naive_frames,
        naive_logits=lambda logits, n_clips: logits.reshape(n_clips, -1, logits.shape[1]).mean(1),
    ),
    "videoprism": Family(
        model_class=VideoPrismForVideoClassification,
        config=partial(
            VideoPrismVisionConfig,
            hidden_size=32,
            intermediate_size=48,
            num_attention_heads=2,
            num_spatial_layers=2,
            num_temporal_layers=1,
            image_size=16,
            tubelet_size=[1, 8, 8],
            num_frames=3,
            # Low, so that the cap takes effect.
            attn_logit_softcapping=2.0,
            id2label=dict(enumerate(CLASS_NAMES)),
        ),
        processor=lambda side: LlavaOnevisionVideoProcessor(
            size={"height": side, "width": side}, do_normalize=False
        ),
        sizes=(
            {},
            {
                "image_size": 24,
                "num_frames": 4,
                "num_temporal_layers": 2,
                "hidden_size": 36,
                "num_attention_heads": 3,
                "qkv_bias": False,
            },
        ),
        many_tokens={"image_size": 232},
        readout=lambda model: model.head,
        read=first_row,
        naive=naive_first_query,
        input_name="pixel_values_videos",
        naive_logits=lambda logits, n_clips: logits.reshape(n_clips, len(CLASS_NAMES)),
        scale=3.0,
    ),
}
