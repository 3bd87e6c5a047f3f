"""VideoMAE (arXiv 2203.12602): every token attends to all, and there is no CLS."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, VideoMAEForVideoClassification

from pipeline.attribution.attention import first_row, mean_row
from pipeline.attribution.column import Affine, Column, ColumnLayer, Mlp, Norm
from pipeline.attribution.rollout import Mixing, all_on_first, rollout
from pipeline.attribution.staa import pooled_attention
from pipeline.clips.sampling import Sampling
from pipeline.models.adapter import Adapter, Block, Readout
from pipeline.models.geometry import Geometry, tubelet_geometry

_PUBLISHED_STRIDES = {16: 4}
"""Frames from one sample to the next on Kinetics, at 30 fps (arXiv 2203.12602, sec. 4.1;
``--sampling_rate`` in scripts/kinetics of MCG-NJU/VideoMAE)."""

_SOMETHING_SOMETHING_CLASSES = 174
"""Something-Something V2's checkpoints sample the whole clip evenly (arXiv 2203.12602, app.;
scripts/ssv2 of MCG-NJU/VideoMAE give no rate)."""


class VideoMAE(Adapter):
    """`VideoMAEForVideoClassification`: A is the mean over a block's rows of all tokens.

    With ``use_mean_pooling=False`` the classifier reads the first token instead, as if it were CLS.
    That token is a patch like the others, in the corner of the first frames. A is its row,
    including its own column, which is that patch's share.
    """

    model_class = VideoMAEForVideoClassification

    @staticmethod
    def geometry(config: PretrainedConfig) -> Geometry:
        """Grid of a checkpoint, in tubelets."""
        patch = config.patch_size
        sides = (patch, patch) if isinstance(patch, int) else tuple(patch)
        return tubelet_geometry(config.num_frames, config.image_size, (config.tubelet_size, *sides))

    @staticmethod
    def published_sampling(config: PretrainedConfig) -> Sampling:
        """Use the Kinetics checkpoints' stride if there are as many frames, else sample uniformly.

        The Kinetics checkpoints see 16 frames (MCG-NJU/videomae-base-finetuned-kinetics). Those of
        Something-Something V2 see 16 too, sampled uniformly (MCG-NJU/videomae-base-finetuned-ssv2).
        """
        n_frames = VideoMAE.geometry(config).n_frames
        stride = _PUBLISHED_STRIDES.get(n_frames)
        if stride is None or config.num_labels == _SOMETHING_SOMETHING_CLASSES:
            return Sampling(kind="uniform", n_samples=n_frames)
        return Sampling(kind="strided", n_samples=n_frames, stride=stride)

    def readout(self, layer: int) -> Readout:
        """Mean row over all tokens, or the first token's row."""
        attention = self.model.videomae.encoder.layer[layer].attention.attention
        return {"readout": (attention, mean_row if self._pools else first_row)}

    def attribution(self, rows: Mapping[str, Tensor], *, residual: bool) -> Tensor:
        """Use the row itself; see `Adapter.attribution`."""
        return self._on_grid(rows["readout"][:, :, 0])

    @staticmethod
    def pools_mean(config: PretrainedConfig) -> bool:
        """Read this from the config."""
        return bool(config.use_mean_pooling)

    def column(self, pixel_values: Tensor) -> Column:
        """Path from the mean of the final tokens to the logits, or the first token's path."""
        body, classifier = self.model.videomae, Affine.of(self.model.classifier)
        layers = tuple(_column_layer(block) for block in body.encoder.layer)
        if self._pools:
            norm = self.model.fc_norm
            return Column(torch.zeros_like(norm.bias), layers[-1:], Norm.of(norm), classifier)
        return Column(self._first_token(pixel_values), layers, Norm.of(body.layernorm), classifier)

    def tokens_on_grid(self, parts: Tensor) -> Tensor:
        """Unfold all tokens; the readout is a patch too. See `Adapter.tokens_on_grid`."""
        return self.grid.unfolded(parts)

    def _first_token(self, pixel_values: Tensor) -> Tensor:
        """Embedding of the first patch: (clips, width) float32."""
        embeddings = self.model.videomae.embeddings
        projection = embeddings.patch_embeddings.projection
        n_frames, height, width = projection.kernel_size
        patch = pixel_values[:, :n_frames, :, :height, :width].transpose(1, 2)
        embedded: Tensor = projection(patch).flatten(1).float()
        position: Tensor = embeddings.position_embeddings[0, 0].to(embedded)
        return embedded + position

    @property
    def patch_projection(self) -> nn.Conv3d:
        """Layer that embeds tubelets."""
        projection: nn.Conv3d = self.model.videomae.embeddings.patch_embeddings.projection
        return projection

    def blocks(self) -> Mapping[str, Block]:
        """Attention of every block."""
        return {
            str(index): Block(
                block.attention.attention,
                block.layernorm_before,
                block.layernorm_after,
                (block.attention.output.dense,),
            )
            for index, block in enumerate(self.model.videomae.encoder.layer)
        }

    @property
    def last_block(self) -> nn.Module | None:
        """The encoder's last block, with mean pooling."""
        last: nn.Module = self.model.videomae.encoder.layer[-1]
        return last if self._pools else None

    def rollout(self, layers: Mapping[str, Mixing]) -> Tensor:
        """Roll out all tokens with equal shares, or the first token."""
        followed = list(layers.values())
        readout = all_on_first(followed[0])
        if self._pools:
            readout = torch.full_like(readout, 1 / readout.shape[1])
        return self._on_grid(rollout(readout, followed))

    @property
    def _pools(self) -> bool:
        return bool(self.model.config.use_mean_pooling)

    def _on_grid(self, row: Tensor) -> Tensor:
        return self.grid.unfolded(pooled_attention(row))


def _column_layer(block: Any) -> ColumnLayer:
    attention = block.attention.attention
    return ColumnLayer(
        attention=attention,
        project=Affine.of(block.attention.output.dense),
        own_value=(Norm.of(block.layernorm_before), Affine.of(attention.value)),
        mlp=Mlp(
            Norm.of(block.layernorm_after),
            Affine.of(block.intermediate.dense),
            block.intermediate.intermediate_act_fn,
            Affine.of(block.output.dense),
        ),
    )
