"""TimeSformer (arXiv 2102.05095): attention over time, then over space, with a CLS token.

The paper's ablations (sec. 3.2), with joint space-time attention or attention over space alone, are
here too. In transformers this model has eager attention only, so the adapter replaces the attention
modules of the model that it holds with `SdpaAttention`, which shares their parameters.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, TimesformerForVideoClassification

from pipeline.attribution.attention import SdpaAttention, all_rows, first_row, heads_averaged
from pipeline.attribution.column import Affine, Column, ColumnLayer, Mlp, Norm
from pipeline.attribution.rollout import Mixing, all_on_first, divided_rollout, rollout
from pipeline.attribution.staa import (
    as_distribution,
    cls_attention,
    divided_attention,
    frame_attention,
)
from pipeline.clips.sampling import Sampling
from pipeline.errors import ModelError
from pipeline.models.adapter import Adapter, Block, Readout
from pipeline.models.geometry import Geometry, tubelet_geometry

_PUBLISHED_STRIDES = {8: 32, 16: 16, 96: 4}
"""Frames from one sample to the next at 30 fps for TimeSformer, -HR and -L
(arXiv 2102.05095, sec. 4)."""

_SOMETHING_SOMETHING_CLASSES = 174
"""Something-Something V2's checkpoints are tested on the middles of even segments of the clip
(timesformer/datasets/ssv2.py in facebookresearch/TimeSformer)."""

_ATTENTION_TYPES = ("divided_space_time", "joint_space_time", "space_only")


class Timesformer(Adapter):
    """`TimesformerForVideoClassification`; its ``attention_type`` decides what is read.

    - ``divided_space_time``: CLS's rows over space, carried back over time by `divided_attention`.
      Heads are those of the attention over space. Attention over time is another module whose heads
      don't correspond to them, so it is averaged over its heads.
    - ``joint_space_time``: CLS's row over all tokens, by `cls_attention`.
    - ``space_only``: the frames are a batch of pictures, each with its own CLS, and transformers
      returns a prediction for each frame. Their logits are averaged here. The paper averages the
      frames' CLS instead, which differs only in whether the mean comes before or after the last
      LayerNorm. A is `frame_attention`.
    """

    model_class = TimesformerForVideoClassification

    def _run_on_sdpa(self) -> None:
        for layer in self.model.timesformer.encoder.layer:
            layer.attention.attention = SdpaAttention(layer.attention.attention)
            if self.has_temporal_attention(self.model.config):
                temporal = layer.temporal_attention
                temporal.attention = SdpaAttention(temporal.attention)

    @staticmethod
    def geometry(config: PretrainedConfig) -> Geometry:
        """Grid of a checkpoint; `ModelError` if the type of its attention isn't known."""
        if config.attention_type not in _ATTENTION_TYPES:
            raise ModelError(
                f"TimeSformer with attention_type={config.attention_type!r} is not supported: "
                f"expected one of {', '.join(_ATTENTION_TYPES)}"
            )
        patch = config.patch_size
        return tubelet_geometry(config.num_frames, config.image_size, (1, patch, patch))

    @staticmethod
    def published_sampling(config: PretrainedConfig) -> Sampling:
        """Use the stride of the Kinetics checkpoint with as many frames, else sample uniformly."""
        stride = _PUBLISHED_STRIDES.get(config.num_frames)
        if stride is None or config.num_labels == _SOMETHING_SOMETHING_CLASSES:
            return Sampling(kind="uniform", n_samples=config.num_frames)
        return Sampling(kind="strided", n_samples=config.num_frames, stride=stride)

    @staticmethod
    def has_temporal_attention(config: PretrainedConfig) -> bool:
        """Only divided attention has it."""
        return bool(config.attention_type == "divided_space_time")

    def predict(self, pixel_values: Tensor) -> Tensor:
        """Logits of a batch, (clips, classes); with space-only attention, the frames' mean."""
        logits = super().predict(pixel_values)
        if self._kind == "space_only":
            return logits.reshape(len(pixel_values), -1, logits.shape[-1]).mean(dim=1)
        return logits

    def readout(self, layer: int) -> Readout:
        """CLS's row over space; with divided attention, also each patch's mean matrix over time."""
        block = self.model.timesformer.encoder.layer[layer]
        cls = {"cls": (block.attention.attention, first_row)}
        if self._kind != "divided_space_time":
            return cls
        return {**cls, "temporal": (block.temporal_attention.attention, heads_averaged(all_rows))}

    def attribution(self, rows: Mapping[str, Tensor], *, residual: bool) -> Tensor:
        """Joint attribution by the kind of attention; see `Adapter.attribution`."""
        cls_rows = rows["cls"][:, :, 0]
        if self._kind == "joint_space_time":
            return self._in_time_order(cls_attention(cls_rows))
        of_frames = _per_clip(cls_rows, self.grid.n_times)
        if "temporal" not in rows:
            return frame_attention(of_frames)
        n_patches = self.grid.height * self.grid.width
        over_time = _per_clip(rows["temporal"], n_patches)
        return divided_attention(of_frames, over_time, residual=residual)

    def column(self, pixel_values: Tensor) -> Column:
        """CLS's path; with space-only attention, one for each frame, whose logits are averaged."""
        body = self.model.timesformer
        start = body.embeddings.cls_token[0, 0] + body.embeddings.position_embeddings[0, 0]
        n_times = self.grid.n_times
        return Column(
            start=start,
            layers=tuple(_column_layer(block) for block in body.encoder.layer),
            norm=Norm.of(body.layernorm),
            classifier=Affine.of(self.model.classifier),
            n_reads=n_times if self._kind == "divided_space_time" else 1,
            n_columns=n_times if self._kind == "space_only" else 1,
        )

    def tokens_on_grid(self, parts: Tensor) -> Tensor:
        """Leave out CLS and unfold by the kind of attention; see `Adapter.tokens_on_grid`."""
        if self._kind == "joint_space_time":
            return self._in_time_order(parts[..., 1:])
        return _per_clip(parts[..., 1:], self.grid.n_times)

    @property
    def patch_projection(self) -> nn.Conv2d:
        """Layer that embeds patches."""
        projection: nn.Conv2d = self.model.timesformer.embeddings.patch_embeddings.projection
        return projection

    def blocks(self) -> Mapping[str, Block]:
        """Attention over space; with divided attention, each after its attention over time."""
        blocks = {}
        for index, layer in enumerate(self.model.timesformer.encoder.layer):
            if self._kind == "divided_space_time":
                temporal = layer.temporal_attention
                blocks[f"temporal {index}"] = Block(
                    temporal.attention,
                    layer.temporal_layernorm,
                    layer.layernorm_before,
                    (temporal.output.dense, layer.temporal_dense),
                )
            blocks[f"spatial {index}"] = Block(
                layer.attention.attention,
                layer.layernorm_before,
                layer.layernorm_after,
                (layer.attention.output.dense,),
            )
        return blocks

    def rollout(self, layers: Mapping[str, Mixing]) -> Tensor:
        """Roll CLS out without its own share; with space-only attention, frames count equally."""
        spatial = [layer for name, layer in layers.items() if name.startswith("spatial")]
        query = spatial[0].scores.query
        batch, n_tokens, n_times = query.shape[0], query.shape[2], self.grid.n_times
        if self._kind == "divided_space_time":
            temporal = [layer for name, layer in layers.items() if name.startswith("temporal")]
            n_clips, device = batch // n_times, query.device
            cls = torch.ones(n_clips, device=device)
            patches = torch.zeros(n_clips, n_times, n_tokens - 1, device=device)
            _, patches = divided_rollout(cls, patches, list(zip(temporal, spatial, strict=True)))
            # Of all 0, where CLS keeps to itself, nothing can be said.
            return as_distribution(patches)
        shares = cls_attention(rollout(all_on_first(spatial[0]), spatial))
        if self._kind == "joint_space_time":
            return self._in_time_order(shares)
        return shares.reshape(-1, n_times, n_tokens - 1) / n_times

    def streams(self, name: str, before: Tensor, behind: Tensor) -> tuple[Tensor, Tensor]:
        """Reshape divided attention's streams to what its modules take, by frame or by patch."""
        if self._kind != "divided_space_time":
            return before, behind
        n_times, width = self.grid.n_times, before.shape[-1]
        if name.startswith("temporal"):
            # The stream behind has the layout of the attention over space, with CLS.
            of_frames = behind[:, 1:].reshape(-1, n_times, behind.shape[1] - 1, width)
            return before, of_frames.transpose(1, 2).flatten(0, 1)
        of_patches = behind[:, 1:].reshape(len(behind), -1, n_times, width).transpose(1, 2)
        cls = behind[:, None, :1].expand(-1, n_times, -1, -1)
        return before, torch.cat([cls, of_patches], dim=2).flatten(0, 1)

    def n_copies(self, name: str) -> int:
        """Divided attention over space has a copy of CLS in every frame."""
        divided = self._kind == "divided_space_time"
        return self.grid.n_times if divided and name.startswith("spatial") else 1

    @property
    def _kind(self) -> str:
        return str(self.model.config.attention_type)

    def _in_time_order(self, shares: Tensor) -> Tensor:
        """Unfold joint attention's tokens, which lie patch after patch, to (..., T, P)."""
        return shares.reshape(*shares.shape[:-1], -1, self.grid.n_times).transpose(-1, -2)


def _per_clip(rows: Tensor, n: int) -> Tensor:
    """Unfold a batch of n frames or patches per clip to (clips, heads, n, ...)."""
    return rows.reshape(-1, n, *rows.shape[1:]).transpose(1, 2)


def _column_layer(block: Any) -> ColumnLayer:
    qkv, width = block.attention.attention.qkv, block.layernorm_before.normalized_shape[0]
    bias = None if qkv.bias is None else qkv.bias[2 * width :]
    return ColumnLayer(
        attention=block.attention.attention,
        project=Affine.of(block.attention.output.dense),
        own_value=(Norm.of(block.layernorm_before), Affine(qkv.weight[2 * width :], bias)),
        mlp=Mlp(
            Norm.of(block.layernorm_after),
            Affine.of(block.intermediate.dense),
            block.intermediate.intermediate_act_fn,
            Affine.of(block.output.dense),
        ),
    )
