"""Decoded frames to the model's input size, with the same pixels as transformers' PIL processors.

Resizing and cropping happen in the decode worker, in uint8 with Pillow, so that what travels to the
GPU is small. Rescaling and normalisation are left to the GPU. transformers itself is not imported
here, because it loads torch, which costs a worker seconds and hundreds of megabytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ConfigError

# Steps of transformers' processors that aren't done here and would change the pixels.
UNSUPPORTED_STEPS = (
    "do_pad",
    "do_thumbnail",
    "do_align_long_axis",
    "do_reduce_labels",
    "do_flip",
    "do_flip_channel_order",
)

_OF_VALUES = ("rescale_factor", "offset", "image_mean", "image_std")
"""Parameters of the steps that are done on the model's device."""


@dataclass(frozen=True)
class Preprocessing:
    """Parameters of a transformers image or video processor, as plain values.

    Attributes
    ----------
    shortest_edge
        Length in pixels to which the shorter side is resized, keeping the aspect ratio; None if
        ``resize`` is given or nothing is resized.
    resize
        Exact (height, width) in pixels to resize to, or None.
    crop
        (height, width) in pixels of the central crop, padded with zeros if the frame is smaller;
        None for no crop.
    resample
        Pillow's filter, for example 2 for bilinear.
    rescale_factor
        Factor for uint8 values; 1.0 for no rescaling.
    offset
        Whether 1 is subtracted after rescaling, as ViViT's processor does.
    image_mean, image_std
        For the rescaled values, per channel (R, G, B); (0, 0, 0) and (1, 1, 1) for no
        normalisation.
    crop_position
        Where the crop lies along the longer side, from 0 (left or top) to 1; along the other side
        it is in the middle. See `pipeline.clips.views`.
    """

    shortest_edge: int | None = 224
    resize: tuple[int, int] | None = None
    crop: tuple[int, int] | None = (224, 224)
    resample: int = Image.Resampling.BILINEAR.value
    rescale_factor: float = 1 / 255
    offset: bool = False
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    crop_position: float = 0.5

    def __post_init__(self) -> None:
        if self.shortest_edge is not None and self.resize is not None:
            raise ConfigError("preprocessing has both shortest_edge and resize, expected one")
        for name in ("resize", "crop"):
            size = getattr(self, name)
            if size is not None and min(size) < 1:
                raise ConfigError(f"preprocessing {name} is {size}, expected 1 pixel or more")
        if self.shortest_edge is not None and self.shortest_edge < 1:
            raise ConfigError(
                f"preprocessing shortest_edge is {self.shortest_edge}, expected 1 pixel or more"
            )
        if self.resample not in set(Image.Resampling):
            raise ConfigError(
                f"preprocessing resample is {self.resample}, which is not a filter of Pillow"
            )
        if min(self.image_std) <= 0:
            raise ConfigError(f"preprocessing image_std is {self.image_std}, expected above 0")
        if not 0 <= self.crop_position <= 1:
            raise ConfigError(
                f"preprocessing crop_position is {self.crop_position}, expected 0 to 1"
            )

    @classmethod
    def from_processor_dict(cls, params: Mapping[str, Any]) -> "Preprocessing":
        """Take over a processor's ``to_dict()``.

        A ``preprocessor_config.json`` saved by a current processor works as well. An older or
        edited one may rely on defaults of its class, so `pipeline.models.checkpoint` passes every
        file through its class first.

        Raises
        ------
        ConfigError
            Names the key that is absent or not supported.
        """
        for step in UNSUPPORTED_STEPS:
            if params.get(step):
                raise ConfigError(f"the processor's {step} is not supported")
        shortest_edge, resize = None, None
        if params.get("do_resize", True):
            shortest_edge, resize = _resize_target(params)
        normalized = params.get("do_normalize", True)
        rescaled = params.get("do_rescale", True)
        return cls(
            shortest_edge=shortest_edge,
            resize=resize,
            crop=_crop_size(params) if params.get("do_center_crop", False) else None,
            resample=int(params.get("resample", Image.Resampling.BILINEAR)),
            rescale_factor=float(params.get("rescale_factor", 1 / 255)) if rescaled else 1.0,
            offset=rescaled and _subtracts_one(params),
            image_mean=_channels(params, "image_mean") if normalized else (0.0, 0.0, 0.0),
            image_std=_channels(params, "image_std") if normalized else (1.0, 1.0, 1.0),
        )

    @property
    def geometry(self) -> "Preprocessing":
        """The part that decides a frame's pixels: parameters of later steps have their defaults."""
        return replace(self, **{name: getattr(Preprocessing, name) for name in _OF_VALUES})

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing and before cropping, for a frame of the given size."""
        if self.resize is not None:
            return self.resize
        if self.shortest_edge is None:
            return height, width
        # transformers rounds like this: int(edge * long / short), with a float division.
        if width <= height:
            return int(self.shortest_edge * height / width), self.shortest_edge
        return self.shortest_edge, int(self.shortest_edge * width / height)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the model's input, for a frame of the given size."""
        return self.crop or self.resized_size(height, width)

    def crop_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Crop in the resized frame's pixels: (left, top, right, bottom), Pillow's order.

        It is negative or beyond the frame where the frame is padded. Halves round down, both for a
        crop and for padding; transformers does the same by rounding the padding up.
        """
        resized_height, resized_width = self.resized_size(height, width)
        crop_height, crop_width = self.output_size(height, width)
        top, left = (resized_height - crop_height) // 2, (resized_width - crop_width) // 2
        # Padding stays on both sides. In a square, the width counts as the longer side.
        if resized_width >= resized_height and resized_width > crop_width:
            left = int((resized_width - crop_width) * self.crop_position)
        elif resized_height > resized_width and resized_height > crop_height:
            top = int((resized_height - crop_height) * self.crop_position)
        return left, top, left + crop_width, top + crop_height

    def resize_and_crop(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop frames (T, H, W, 3) uint8 to the model's size: (T, h, w, 3) uint8.

        Raises
        ------
        ValueError
            When the frames have another shape or dtype.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                f"frames are {frames.dtype} {frames.shape}, expected uint8 (T, H, W, 3)"
            )
        pictures = [Image.fromarray(frame) for frame in frames]
        return self._fit(pictures, frames.shape[1:3], (3,), np.dtype(np.uint8))

    def resize_and_crop_mask(self, masks: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Resize and crop ground-truth masks (T, H, W) bool like the frames: (T, h, w) float32.

        Values are the share of each pixel that the mask covers, in [0, 1]; padding is 0. A filter
        with negative lobes overshoots at edges, so masks are always resized bilinearly, whatever
        the frames' filter.

        Raises
        ------
        ValueError
            When the masks have another shape or dtype.
        """
        if masks.dtype != np.bool_ or masks.ndim != 3:
            raise ValueError(f"masks are {masks.dtype} {masks.shape}, expected bool (T, H, W)")
        pictures = [Image.fromarray(mask.astype(np.float32)) for mask in masks]
        fitted = self._fit(
            pictures, masks.shape[1:3], (), np.dtype(np.float32), Image.Resampling.BILINEAR
        )
        # The filter's weights sum to 1 within rounding only.
        clipped: NDArray[np.float32] = np.clip(fitted, 0.0, 1.0)
        return clipped

    def _fit(
        self,
        pictures: list[Image.Image],
        size: tuple[int, ...],
        channels: tuple[int, ...],
        dtype: np.dtype[Any],
        resample: int | None = None,
    ) -> NDArray[Any]:
        """Resize and crop ``pictures``, all of ``size`` (height, width), into one array."""
        height, width = size
        resized_height, resized_width = self.resized_size(height, width)
        resampling = Image.Resampling(self.resample if resample is None else resample)
        box = self.crop_box(height, width)
        fitted = np.empty((len(pictures), *self.output_size(height, width), *channels), dtype)
        for position, picture in enumerate(pictures):
            if (resized_height, resized_width) != (height, width):
                picture = picture.resize((resized_width, resized_height), resampling)
            fitted[position] = np.asarray(picture.crop(box))
        return fitted

    def resize_frame(self, frame: NDArray[np.uint8]) -> Image.Image:
        """Resize one frame (H, W, 3), from which `crop_resized` takes any crop."""
        height, width, _ = frame.shape
        resized_height, resized_width = self.resized_size(height, width)
        picture = Image.fromarray(frame)
        if (resized_height, resized_width) == (height, width):
            return picture
        return picture.resize((resized_width, resized_height), Image.Resampling(self.resample))

    def crop_resized(self, resized: Image.Image, frame_size: tuple[int, int]) -> NDArray[np.uint8]:
        """Crop what `resize_frame` made from a frame of (H, W) pixels: (h, w, 3) uint8."""
        cropped: NDArray[np.uint8] = np.asarray(resized.crop(self.crop_box(*frame_size)))
        return cropped


def _resize_target(params: Mapping[str, Any]) -> tuple[int | None, tuple[int, int] | None]:
    size = params.get("size")
    # Files from before transformers 4.24 hold a bare number, which means the shorter side.
    if isinstance(size, int):
        return size, None
    if isinstance(size, Mapping):
        given = {key: value for key, value in size.items() if value is not None}
        if set(given) == {"shortest_edge"}:
            return int(given["shortest_edge"]), None
        if set(given) == {"height", "width"}:
            return None, (int(given["height"]), int(given["width"]))
    raise ConfigError(
        f"the processor's size is {size!r}, expected {{'shortest_edge': n}} or "
        "{'height': n, 'width': n}"
    )


def _crop_size(params: Mapping[str, Any]) -> tuple[int, int]:
    size = params.get("crop_size")
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping):
        height, width = size.get("height"), size.get("width")
        if height is not None and width is not None:
            return int(height), int(width)
    raise ConfigError(
        f"the processor's crop_size is {size!r}, expected n or {{'height': n, 'width': n}}"
    )


def _subtracts_one(params: Mapping[str, Any]) -> bool:
    """ViViT's image processor has a flag for this; its video processor always does it."""
    kind = params.get("video_processor_type") or params.get("image_processor_type") or ""
    return bool(params.get("offset", str(kind).startswith("Vivit")))


def _channels(params: Mapping[str, Any], key: str) -> tuple[float, float, float]:
    values = params.get(key)
    if isinstance(values, int | float):
        values = [values] * 3
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ConfigError(f"the processor's {key} is {values!r}, expected a number per channel")
    red, green, blue = (float(value) for value in values)
    return red, green, blue
