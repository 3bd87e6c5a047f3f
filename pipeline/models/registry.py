"""The model families that are supported, and the adapter of each."""

from transformers import PretrainedConfig

from pipeline.errors import ModelError
from pipeline.models.adapter import Adapter
from pipeline.models.timesformer import Timesformer
from pipeline.models.videomae import VideoMAE
from pipeline.models.videoprism import VideoPrism
from pipeline.models.vivit import Vivit
from pipeline.models.vjepa2 import VJEPA2

FAMILIES: dict[str, type[Adapter]] = {
    "timesformer": Timesformer,
    "videomae": VideoMAE,
    "videoprism_vision_model": VideoPrism,
    "vivit": Vivit,
    "vjepa2": VJEPA2,
}
"""Adapters by the ``model_type`` of a checkpoint's config."""


def _family(name: str, config: PretrainedConfig) -> type[Adapter]:
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(
            f"model: {name!r} is of type {config.model_type!r}, which is not supported; "
            f"known: {known}"
        ) from None
