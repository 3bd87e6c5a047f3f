"""ViViT, unfactorised (arXiv 2103.15691, model 1): every token attends to all; CLS is read."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, VivitForVideoClassification

from pipeline.attribution.attention import first_row
from pipeline.attribution.column import Affine, Column, ColumnLayer, Mlp, Norm
from pipeline.attribution.rollout import Mixing, all_on_first, rollout
from pipeline.attribution.staa import cls_attention
from pipeline.clips.sampling import Sampling
from pipeline.models.adapter import Adapter, Block, Readout
from pipeline.models.geometry import Geometry, tubelet_geometry

_PUBLISHED_STRIDES = {32: 2}
"""Frames from one sample to the next, on Kinetics at 25 fps (arXiv 2103.15691, sec. 4.1; ``stride``
in scenic/projects/vivit/configs/kinetics400/vivit_base_k400.py in google-research/scenic)."""


class Vivit(Adapter):
    """`VivitForVideoClassification`: A is CLS's row in a block, see `cls_attention`."""

    model_class = VivitForVideoClassification

    @staticmethod
    def geometry(config: PretrainedConfig) -> Geometry:
        """Grid of a checkpoint, in tubelets."""
        return tubelet_geometry(config.num_frames, config.image_size, config.tubelet_size)

    @staticmethod
    def published_sampling(config: PretrainedConfig) -> Sampling:
        """Use the published checkpoints' stride if there are as many frames, else sample uniformly.

        The published checkpoints see 32 frames (google/vivit-b-16x2-kinetics400).
        """
        n_frames = Vivit.geometry(config).n_frames
        stride = _PUBLISHED_STRIDES.get(n_frames)
        if stride is None:
            return Sampling(kind="uniform", n_samples=n_frames)
        return Sampling(kind="strided", n_samples=n_frames, stride=stride, target_fps=25.0)

    def readout(self, layer: int) -> Readout:
        """CLS's row."""
        return {"cls": (self.model.vivit.layers[layer].attention, first_row)}

    def attribution(self, rows: Mapping[str, Tensor], *, residual: bool) -> Tensor:
        """CLS's row without its own column; see `Adapter.attribution`."""
        return self._on_grid(rows["cls"][:, :, 0])

    def column(self, pixel_values: Tensor) -> Column:
        """CLS's path through the blocks."""
        body = self.model.vivit
        return Column(
            start=body.embeddings.cls_token[0, 0] + body.embeddings.position_embeddings[0, 0],
            layers=tuple(_column_layer(block) for block in body.layers),
            norm=Norm.of(body.layernorm),
            classifier=Affine.of(self.model.classifier),
        )

    def tokens_on_grid(self, parts: Tensor) -> Tensor:
        """Leave out CLS; see `Adapter.tokens_on_grid`."""
        return self.grid.unfolded(parts[..., 1:])

    @property
    def patch_projection(self) -> nn.Conv3d:
        """Layer that embeds tubelets."""
        projection: nn.Conv3d = self.model.vivit.embeddings.patch_embeddings.projection
        return projection

    def blocks(self) -> Mapping[str, Block]:
        """Attention of every block."""
        return {
            str(index): Block(
                block.attention,
                block.layernorm_before,
                block.layernorm_after,
                (block.attention.o_proj,),
            )
            for index, block in enumerate(self.model.vivit.layers)
        }

    def rollout(self, layers: Mapping[str, Mixing]) -> Tensor:
        """Roll CLS out without its own share."""
        followed = list(layers.values())
        return self._on_grid(rollout(all_on_first(followed[0]), followed))

    def _on_grid(self, cls_row: Tensor) -> Tensor:
        return self.grid.unfolded(cls_attention(cls_row))


def _column_layer(block: Any) -> ColumnLayer:
    attention, mlp = block.attention, block.mlp
    return ColumnLayer(
        attention=attention,
        project=Affine.of(attention.o_proj),
        own_value=(Norm.of(block.layernorm_before), Affine.of(attention.v_proj)),
        mlp=Mlp(
            Norm.of(block.layernorm_after),
            Affine.of(mlp.fc1),
            mlp.activation_fn,
            Affine.of(mlp.fc2),
        ),
    )
