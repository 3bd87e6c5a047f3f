"""Small untrained video transformers from three families, all with a grid of 8 x 8 patches."""

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VivitConfig,
    VivitForVideoClassification,
)

IMAGE_SIZE = 96
"""Height and width of a frame, pixels; EXACT's are smaller."""
SIDE = 8
"""Rows and columns of patches."""
FRAMES_PER_TUBELET = 2
"""For ViViT and VideoMAE."""

_WIDTH = 64
_EMBEDDING_SCALE = 0.5


def small_model(
    architecture: str,
    n_frames: int,
    seed: int,
    class_names: tuple[str, ...],
    n_layers: int = 3,
    image_size: int = IMAGE_SIZE,
) -> PreTrainedModel:
    """Build an untrained model: ``timesformer``, ``vivit`` or ``videomae``.

    Parameters
    ----------
    image_size
        Height and width of a frame, a multiple of `SIDE` pixels; the number of patches stays.
    """
    build = {"timesformer": small_timesformer, "vivit": small_vivit, "videomae": small_videomae}
    return build[architecture](n_frames, seed, class_names, n_layers, image_size)


def small_timesformer(
    n_frames: int,
    seed: int,
    class_names: tuple[str, ...],
    n_layers: int = 3,
    image_size: int = IMAGE_SIZE,
) -> TimesformerForVideoClassification:
    """Build a TimeSformer with divided attention; three layers have 0.2 million parameters."""
    torch.manual_seed(seed)
    model = TimesformerForVideoClassification(
        TimesformerConfig(
            image_size=image_size,
            patch_size=image_size // SIDE,
            num_frames=n_frames,
            **_sizes(class_names, n_layers),
        )
    )
    _start(model)
    embeddings = model.timesformer.embeddings
    with torch.no_grad():
        embeddings.position_embeddings[0, 1:] = _EMBEDDING_SCALE * _places()
        embeddings.time_embeddings.copy_(_EMBEDDING_SCALE * sinusoids(n_frames, _WIDTH))
    return model


def small_vivit(
    n_frames: int,
    seed: int,
    class_names: tuple[str, ...],
    n_layers: int = 3,
    image_size: int = IMAGE_SIZE,
) -> VivitForVideoClassification:
    """Build a ViViT, which attends over space and time jointly and reads CLS."""
    torch.manual_seed(seed)
    model = VivitForVideoClassification(
        VivitConfig(
            image_size=image_size,
            num_frames=n_frames,
            tubelet_size=[FRAMES_PER_TUBELET, image_size // SIDE, image_size // SIDE],
            **_sizes(class_names, n_layers),
        )
    )
    _start(model)
    with torch.no_grad():
        times = sinusoids(n_frames // FRAMES_PER_TUBELET, _WIDTH)
        places = (_places()[None] + times[:, None]).flatten(0, 1)
        model.vivit.embeddings.position_embeddings[0, 1:] = _EMBEDDING_SCALE * places
    return model


def small_videomae(
    n_frames: int,
    seed: int,
    class_names: tuple[str, ...],
    n_layers: int = 3,
    image_size: int = IMAGE_SIZE,
) -> VideoMAEForVideoClassification:
    """Build a VideoMAE, which attends jointly and reads the mean of all tokens."""
    torch.manual_seed(seed)
    model = VideoMAEForVideoClassification(
        VideoMAEConfig(
            image_size=image_size,
            patch_size=image_size // SIDE,
            num_frames=n_frames,
            tubelet_size=FRAMES_PER_TUBELET,
            **_sizes(class_names, n_layers),
        )
    )
    _start(model)
    return model


def sinusoids(n_positions: int, n_channels: int) -> Tensor:
    """Sines and cosines of positions at wavelengths from 2 pi up: (positions, channels)."""
    position = torch.arange(n_positions, dtype=torch.float32)[:, None]
    rate = 100.0 ** -(torch.arange(n_channels // 2) / (n_channels // 2))
    return torch.cat([(position * rate).sin(), (position * rate).cos()], dim=1)


def _sizes(class_names: tuple[str, ...], n_layers: int) -> dict[str, object]:
    return {
        "hidden_size": _WIDTH,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * _WIDTH,
        "num_labels": len(class_names),
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: index for index, name in enumerate(class_names)},
    }


def _start(model: PreTrainedModel) -> None:
    """Set weights of variance 1 / fan-in, and a classifier that prefers no class."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    nn.init.zeros_(model.classifier.weight)


def _places() -> Tensor:
    """Embeddings of rows and columns: (patches, width)."""
    rows = sinusoids(SIDE, _WIDTH // 2)[:, None].expand(SIDE, SIDE, -1)
    columns = sinusoids(SIDE, _WIDTH // 2)[None, :].expand(SIDE, SIDE, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
