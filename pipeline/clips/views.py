"""Several views of a video: temporal clips times spatial crops, as published accuracies are taken.

The rows of a video lie side by side in the store: row ``video * n_views + view``, and view
``clip * crops + crop``. Everything else of a run is what it is for rows: a view can fail, is
committed with its shard, and is computed once.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from pipeline.base_config import FrozenConfig
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.errors import ConfigError

_FRAMES = ((1080, 1920), (1920, 1080))
"""(height, width) of what most videos are, landscape and portrait."""


class ViewsConfig(FrozenConfig):
    """Parts of a video that the model sees one by one, each a row of the store."""

    clips: int = Field(default=1, ge=1, le=100)
    """Windows of a strided sampling, evenly from the video's start to its end; 1 in the middle. Of
    a video that is no longer than the window they are all the same."""
    crops: int = Field(default=1, ge=1, le=100)
    """Crops along the longer side, evenly from one end to the other; 1 in the middle."""

    @property
    def count(self) -> int:
        """Views of each video."""
        return self.clips * self.crops


def inputs_of_views(
    views: ViewsConfig, sampling: Sampling, preprocessing: Preprocessing
) -> tuple[tuple[Sampling, Preprocessing], ...]:
    """How the frames of each view are taken and cropped, in the order of the store's rows.

    Of a video that is no longer than the sampling's window, every temporal clip is the whole video,
    and its views are the same; that depends on the video, and isn't refused.

    Raises
    ------
    ConfigError
        When views would be one and the same, whatever the video: clips of a sampling that takes the
        whole of it, crops where the frame has nothing beside the crop.
    """
    if views.clips > 1 and sampling.kind != "strided":
        raise ConfigError(
            f"views.clips={views.clips} with {sampling.kind} sampling, which takes the whole video "
            "each time; expected sampling.kind strided"
        )
    if views.crops > 1 and preprocessing.crop is None:
        raise ConfigError(
            f"views.crops={views.crops}: the model's processor crops nothing, it takes whole frames"
        )
    croppings = [replace(preprocessing, crop_position=where) for where in _positions(views.crops)]
    if views.crops > 1 and not any(
        len({cropping.crop_box(*size) for cropping in croppings}) > 1 for size in _FRAMES
    ):
        raise ConfigError(
            f"views.crops={views.crops}: the model's processor leaves nothing beside its crop of "
            f"{preprocessing.crop}, all of them would be the same"
        )
    return tuple(
        (replace(sampling, position=when), cropping)
        for when in _positions(views.clips)
        for cropping in croppings
    )


def recorded_views(attributes: Mapping[str, Any]) -> tuple[tuple[Sampling, Preprocessing], ...]:
    """`inputs_of_views` of a store, from its attributes."""
    return inputs_of_views(
        ViewsConfig.model_validate(attributes["views"]),
        # Runs that don't say it sampled by frames.
        Sampling(**{"clock": "frame"} | attributes["sampling"]),
        Preprocessing.from_dict(attributes["preprocessing"]),
    )


def _positions(count: int) -> list[float]:
    """Evenly from 0 to 1; one lies in the middle."""
    return [0.5] if count == 1 else [index / (count - 1) for index in range(count)]
