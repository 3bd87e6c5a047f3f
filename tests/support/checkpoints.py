"""Small checkpoints for tests, as `save_pretrained` writes them, that attend unevenly."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEImageProcessorPil,
)

Model = TypeVar("Model", bound=PreTrainedModel)

_LEARNT_INPUTS = ("embeddings", "query_tokens", "pooling_attention_query")
_SCALED = (
    "qkv.weight",
    "q_proj.weight",
    "k_proj.weight",
    "query.weight",
    "key.weight",
)

_OUTPUTS = (
    "o_proj.weight",
    "out_proj.weight",
    "attention.proj.weight",
    "attention.output.dense.weight",
    "classifier.weight",
)

CLASS_NAMES = ("juggling", "knitting", "sailing", "waving", "yodelling")


def make_timesformer(
    *, seed: int = 0, qkv_scale: float = 12.0, **config: Any
) -> TimesformerForVideoClassification:
    """Make a random TimeSformer, untouched and in evaluation mode: 16x16 pixels, 2x2 patches.

    ``qkv_scale`` multiplies the query, key and value weights: with the default initialisation,
    attention is uniform within 1e-3, and a test of it couldn't fail.
    """
    defaults = {
        "image_size": 16,
        "patch_size": 8,
        "num_frames": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "id2label": dict(enumerate(CLASS_NAMES)),
    }
    return make_model(
        TimesformerForVideoClassification,
        TimesformerConfig(**{**defaults, **config}),
        seed=seed,
        scale=qkv_scale,
    )


def make_model(
    model_class: type[Model],
    config: PretrainedConfig,
    *,
    seed: int = 0,
    scale: float = 12.0,
    output_scale: float = 1.0,
) -> Model:
    """Make a random model, untouched and in evaluation mode; ``scale`` as in `make_timesformer`.

    ``output_scale`` multiplies what carries attention to the logits, which hardly show it
    otherwise.
    """
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in _LEARNT_INPUTS):
                parameter.normal_(std=0.5)
            elif name.endswith(_SCALED):
                parameter.mul_(scale)
            elif name.endswith(_OUTPUTS):
                parameter.mul_(output_scale)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    torch.set_rng_state(generator_state)
    return model.eval()


def save_timesformer(path: Path, *, seed: int = 0, **config: Any) -> Path:
    """Write a `make_timesformer` model and its image processor to a folder; returns the folder."""
    model = make_timesformer(seed=seed, **config)
    model.save_pretrained(path)
    side = model.config.image_size
    VideoMAEImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.45, 0.45, 0.45],
        image_std=[0.225, 0.225, 0.225],
    ).save_pretrained(path)
    return path
