"""The arrays of a store: names, dimensions, dtypes and fill values, for a run of given sizes."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from pipeline.clips.columns import DIGEST_BYTES


@dataclass(frozen=True)
class ArraySpec:
    """Template of one array: dimension names, the sizes behind ``clip``, dtype and fill value."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    fill_value: float | str
    description: str
    sharded: bool = False

    def filled(self, n_rows: int) -> NDArray[Any]:
        """Give rows that say nothing: (n_rows, *shape) of the fill value; texts are objects."""
        dtype = object if self.dtype == "str" else self.dtype
        return np.full((n_rows, *self.shape), self.fill_value, dtype)


@dataclass(frozen=True)
class Measure:
    """What a store holds of each clip in the place of its attribution."""

    name: str
    dims: tuple[str, ...]
    """Names of the dimensions behind ``clip``."""
    shape: tuple[int, ...]
    description: str
    dtype: str = "float32"


@dataclass(frozen=True)
class StoreLayout:
    """Sizes of a store's dimensions."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    n_rows: int
    rows_per_shard: int
    n_frames: int
    n_times: int
    height: int
    width: int
    n_ranks: int
    n_layers: int = 1
    """Layers that are stored."""
    n_heads: int = 0
    """Heads that are stored of each; 0 if they were averaged alone."""
    n_channels: int = 0
    """Channels of the vectors that the classifier reads; 0 if they aren't stored."""
    optional: tuple[str, ...] = ()
    """Names of the arrays that not every store has, and this one does."""
    checksums: bool = False
    """Whether chunks carry checksums, and each is written, also one of fill values."""
    measures: tuple[Measure, ...] = ()
    """What the store holds if it isn't one of attributions, but of what was measured of them."""

    @property
    def n_shards(self) -> int:
        """Shards in the store; the last one may have fewer rows."""
        return -(-self.n_rows // self.rows_per_shard)

    def shard_rows(self, shard: int) -> range:
        """Rows of a shard."""
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.n_rows))

    @property
    def row_bytes(self) -> int:
        """Size of what is stored of a clip without its texts, uncompressed."""
        specs = [spec for spec in self.arrays().values() if spec.dtype != "str"]
        return sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs)

    @property
    def map_bytes(self) -> int:
        """Size of the maps of a clip, uncompressed."""
        specs = [spec for spec in self.arrays().values() if spec.sharded]
        return sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs)

    def arrays(self) -> dict[str, ArraySpec]:
        """Template of every array, by name."""
        if self.measures:
            return self._measure_arrays()
        time, ranks, frames = (self.n_times,), (self.n_ranks,), (self.n_frames,)
        grid = (self.n_times, self.height, self.width)
        nan = float("nan")
        read = "there is evidence" if "signed" in self.optional else "the model attends"
        return {
            "status": ArraySpec(("clip",), (), "uint8", 0, "what became of the clip"),
            "message": ArraySpec(("clip",), (), "str", "", "why the clip failed"),
            "video_id": ArraySpec(("clip",), (), "str", "", "id in the manifest"),
            "start_time": ArraySpec(
                ("clip",), (), "float64", nan, "where the clip starts in its source video, s"
            ),
            "frame_index": ArraySpec(
                ("clip", "frame"), frames, "int32", -1, "frames of the clip that the model saw"
            ),
            "spatial": ArraySpec(
                ("clip", "time", "y", "x"),
                grid,
                "float16",
                nan,
                f"S: where in each frame {read}; sums to 1 over (y, x)",
                sharded=True,
            ),
            "temporal": ArraySpec(
                ("clip", "time"), time, "float32", nan, f"T: when {read}; sums to 1"
            ),
            "label": ArraySpec(("clip",), (), "int32", -1, "class of the manifest, -1 if unknown"),
            "prediction": ArraySpec(("clip",), (), "int32", -1, "most probable class"),
            "probability": ArraySpec(("clip",), (), "float32", nan, "of the predicted class"),
            "label_probability": ArraySpec(("clip",), (), "float32", nan, "of the labelled class"),
            "top_classes": ArraySpec(
                ("clip", "rank"), ranks, "int32", -1, "most probable classes, best first"
            ),
            "top_probabilities": ArraySpec(
                ("clip", "rank"), ranks, "float32", nan, "their probabilities"
            ),
            **self._layer_and_head_arrays(),
            **{name: self._optional_arrays()[name] for name in self.optional},
        }

    def _measure_arrays(self) -> dict[str, ArraySpec]:
        """Templates of a store of measures."""
        return {
            "status": ArraySpec(("clip",), (), "uint8", 0, "what became of the clip"),
            "message": ArraySpec(("clip",), (), "str", "", "why the clip failed"),
            "video_id": ArraySpec(("clip",), (), "str", "", "id in the manifest"),
            **{
                each.name: ArraySpec(
                    ("clip", *each.dims),
                    each.shape,
                    each.dtype,
                    float("nan") if np.dtype(each.dtype).kind == "f" else -1,
                    each.description,
                )
                for each in self.measures
            },
        }

    def _optional_arrays(self) -> dict[str, ArraySpec]:
        """Templates of the arrays that a store has only if ``optional`` names them."""
        frames, nan = (self.n_frames,), float("nan")
        return {
            "frame_time": ArraySpec(
                ("clip", "frame"),
                frames,
                "float64",
                nan,
                "when those frames are shown, in s from the file's first frame",
            ),
            "clip_digest": ArraySpec(
                ("clip", "byte"),
                (DIGEST_BYTES,),
                "uint8",
                0,
                "BLAKE2b of the file's bytes; zeros where none could be read",
            ),
            "target": ArraySpec(("clip",), (), "int32", -1, "class that is explained"),
            "signed": ArraySpec(
                ("clip", "time", "y", "x"),
                (self.n_times, self.height, self.width),
                "float16",
                nan,
                "evidence for the class rather than for others, in logits; below 0 against it",
                sharded=True,
            ),
            **self._attribution_arrays("runner_up", ("clip",), (), "of the second best class"),
            "frame_importance": ArraySpec(
                ("clip", "time"),
                (self.n_times,),
                "float32",
                nan,
                "share of what the class depends on; sums to 1",
            ),
            "pooled": ArraySpec(
                ("clip", "channel"),
                (self.n_channels,),
                "float16",
                nan,
                "what the classifier reads: clips that look alike to the model lie near each other",
            ),
        }

    def _layer_and_head_arrays(self) -> dict[str, ArraySpec]:
        """Templates of what is stored beside ``spatial`` and ``temporal`` if it was asked for."""
        dims, shape = ("clip", "layer"), (self.n_layers,)
        arrays: dict[str, ArraySpec] = {}
        if self.n_layers > 1:
            arrays |= self._attribution_arrays("layer", dims, shape, "of each layer")
        if self.n_heads:
            heads = (*dims, "head"), (*shape, self.n_heads)
            arrays |= self._attribution_arrays("head", *heads, "of each head of each layer")
        return arrays

    def _attribution_arrays(
        self, prefix: str, dims: tuple[str, ...], shape: tuple[int, ...], of: str
    ) -> dict[str, ArraySpec]:
        nan = float("nan")
        return {
            f"{prefix}_spatial": ArraySpec(
                (*dims, "time", "y", "x"),
                (*shape, self.n_times, self.height, self.width),
                "float16",
                nan,
                f"S {of}; sums to 1 over (y, x)",
                sharded=True,
            ),
            f"{prefix}_temporal": ArraySpec(
                (*dims, "time"),
                (*shape, self.n_times),
                "float32",
                nan,
                f"T {of}; sums to 1",
                sharded=True,
            ),
        }
