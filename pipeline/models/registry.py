"""The model families that are supported, and the adapter of each."""

from collections.abc import Iterator, Mapping
from importlib import import_module

from transformers import PretrainedConfig

from pipeline.errors import ModelError
from pipeline.models.adapter import Adapter


class Families(Mapping[str, type[Adapter]]):
    """Adapters by the ``model_type`` of a checkpoint's config.

    A family's module loads transformers' model of it, so it is loaded when its adapter is asked
    for, and those of the other families aren't.

    Parameters
    ----------
    adapters
        ``module:class`` of each.
    """

    def __init__(self, adapters: Mapping[str, str]) -> None:
        self._adapters = adapters

    def __getitem__(self, model_type: str) -> type[Adapter]:
        module, _, name = self._adapters[model_type].partition(":")
        adapter: type[Adapter] = getattr(import_module(module), name)
        return adapter

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)


FAMILIES = Families(
    {
        "timesformer": "pipeline.models.timesformer:Timesformer",
        "videomae": "pipeline.models.videomae:VideoMAE",
        "videoprism_vision_model": "pipeline.models.videoprism:VideoPrism",
        "vivit": "pipeline.models.vivit:Vivit",
        "vjepa2": "pipeline.models.vjepa2:VJEPA2",
    }
)


def _family(name: str, config: PretrainedConfig) -> type[Adapter]:
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(
            f"model: {name!r} is of type {config.model_type!r}, which is not supported; "
            f"known: {known}"
        ) from None
