"""Several views of a video: temporal clips times spatial crops, as published accuracies are taken.

The rows of a video lie side by side in the store, and this is the only home of that formula::

    row = video * n_views + view        view = clip * crops + crop

Everything else of a run is what it is for rows: a view can fail, is committed with its shard, and
is computed once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.base_config import FrozenConfig
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.errors import ConfigError

_FRAMES = ((1080, 1920), (1920, 1080))
"""(height, width) of what most videos are, landscape and portrait."""

Rows = TypeVar("Rows", int, NDArray[np.int64])
"""A row, or (rows,) of them."""


class ViewsConfig(FrozenConfig):
    """Parts of a video that the model sees one by one, each a row of the store."""

    clips: int = Field(default=1, ge=1, le=100)
    """Windows of a strided sampling, evenly from the video's start to its end; 1 in the middle. Of
    a video that is no longer than the window they are all the same."""
    crops: int = Field(default=1, ge=1, le=100)
    """Crops along the longer side, evenly from one end to the other; 1 in the middle."""


@dataclass(frozen=True)
class View:
    """How the frames of one view of a video are taken and cropped."""

    sampling: Sampling
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Views:
    """The views of every video of a run, in the order of the store's rows."""

    views: tuple[View, ...]

    @classmethod
    def of_config(
        cls, config: ViewsConfig, sampling: Sampling, preprocessing: Preprocessing
    ) -> "Views":
        """Spread views over the video's length and the frame's longer side.

        Every temporal clip of a video that is no longer than the sampling's window is the whole
        video, and its views are the same; that depends on the video, and isn't refused.

        Raises
        ------
        ConfigError
            When views would be one and the same, whatever the video: clips of a sampling that takes
            the whole of it, crops where the frame has nothing beside the crop.
        """
        if config.clips > 1 and sampling.kind != "strided":
            raise ConfigError(
                f"views.clips={config.clips} with {sampling.kind} sampling, which takes the whole "
                "video each time; expected sampling.kind strided"
            )
        if config.crops > 1 and preprocessing.crop is None:
            raise ConfigError(
                f"views.crops={config.crops}: the model's processor crops nothing, it takes whole "
                "frames"
            )
        croppings = [
            replace(preprocessing, crop_position=where) for where in _positions(config.crops)
        ]
        if config.crops > 1 and not any(
            len({cropping.crop_box(*size) for cropping in croppings}) > 1 for size in _FRAMES
        ):
            raise ConfigError(
                f"views.crops={config.crops}: the model's processor leaves nothing beside its crop "
                f"of {preprocessing.crop}, all of them would be the same"
            )
        return cls(
            tuple(
                View(replace(sampling, position=when), cropping)
                for when in _positions(config.clips)
                for cropping in croppings
            )
        )

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[View]:
        return iter(self.views)

    def of(self, row: int) -> View:
        """View of a row."""
        return self.views[self.view(row)]

    def video(self, rows: Rows) -> Rows:
        """Row in the manifest of a row of the store, or of each of some."""
        return rows // len(self)

    def view(self, rows: Rows) -> Rows:
        """Position of a row's view among those of its video, or of each of some."""
        return rows % len(self)

    def n_rows(self, n_videos: int) -> int:
        """Rows of a store over a manifest of so many rows."""
        return n_videos * len(self)


def _positions(count: int) -> list[float]:
    """Evenly from 0 to 1; one lies in the middle."""
    return [0.5] if count == 1 else [index / (count - 1) for index in range(count)]
