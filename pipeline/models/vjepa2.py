"""V-JEPA 2 (arXiv 2506.09985): an encoder with joint attention, read by an attentive pooler."""

from collections.abc import Mapping

from torch import Tensor, nn
from transformers import PretrainedConfig, VJEPA2ForVideoClassification

from pipeline.attribution.column import Affine, Column, ColumnLayer, Mlp, Norm
from pipeline.attribution.rollout import Mixing, rollout
from pipeline.clips.sampling import Sampling
from pipeline.models.adapter import Block
from pipeline.models.geometry import Geometry, tubelet_geometry
from pipeline.models.pooler import PooledAdapter

_PUBLISHED_SAMPLING = {
    16: Sampling(kind="strided", n_samples=16, stride=4, target_fps=12.0),
    32: Sampling(kind="strided", n_samples=32, stride=2, target_fps=30.0),
    64: Sampling(kind="strided", n_samples=64, stride=2, target_fps=12.0),
}
"""By the number of frames: ``frame_step`` in configs/eval/vitl and vitg-384 of
facebookresearch/vjepa2.

The classifiers with 16 and 64 frames are for Something-Something V2, whose clips have 12 frames/s;
those with 32 frames are for Diving-48, which has 30.
"""


class VJEPA2(PooledAdapter):
    """`VJEPA2ForVideoClassification`: an encoder, then a pooler.

    The pooler has self-attention blocks (3 in the published checkpoints) before its query.
    """

    model_class = VJEPA2ForVideoClassification

    @staticmethod
    def geometry(config: PretrainedConfig) -> Geometry:
        """Grid of a checkpoint, in tubelets."""
        patch = config.patch_size
        tubelet = (config.tubelet_size, patch, patch)
        return tubelet_geometry(config.frames_per_clip, config.crop_size, tubelet)

    @staticmethod
    def published_sampling(config: PretrainedConfig) -> Sampling:
        """Use the stride of the published classifier with as many frames, else sample uniformly."""
        n_frames = VJEPA2.geometry(config).n_frames
        uniform = Sampling(kind="uniform", n_samples=n_frames)
        return _PUBLISHED_SAMPLING.get(n_frames, uniform)

    @property
    def pooler(self) -> nn.Module:
        """The pooler's cross-attention."""
        module: nn.Module = self.model.pooler.cross_attention_layer.cross_attn
        return module

    def column(self, pixel_values: Tensor) -> Column:
        """Path of the query: its attention has no output projection, the query no values."""
        layer = self.model.pooler.cross_attention_layer
        mlp = Mlp(
            Norm.of(layer.layer_norm2),
            Affine.of(layer.mlp.fc1),
            layer.mlp.activation,
            Affine.of(layer.mlp.fc2),
        )
        return Column(
            start=self.model.pooler.query_tokens[0, 0],
            layers=(ColumnLayer(layer.cross_attn, mlp=mlp),),
            norm=None,
            classifier=Affine.of(self.model.classifier),
        )

    @property
    def patch_projection(self) -> nn.Conv3d:
        """Layer that embeds tubelets."""
        projection: nn.Conv3d = self.model.vjepa2.encoder.embeddings.patch_embeddings.proj
        return projection

    def blocks(self) -> Mapping[str, Block]:
        """Attention of every block of the encoder and of the pooler, then of the query."""
        blocks = [
            Block(block.attention, block.norm1, block.norm2, (block.attention.proj,))
            for block in self.model.vjepa2.encoder.layer
        ]
        pooler = self.model.pooler
        blocks += [
            Block(
                layer.self_attn,
                layer.layer_norm1,
                layer.layer_norm2,
                (layer.self_attn.out_proj,),
            )
            for layer in pooler.self_attention_layers
        ]
        named = {str(index): block for index, block in enumerate(blocks)}
        query = Block(self.pooler, behind=pooler.cross_attention_layer.layer_norm2)
        return {**named, "pooler": query}

    def rollout(self, layers: Mapping[str, Mixing]) -> Tensor:
        """Roll the pooler's row out through the pooler's blocks and the encoder's."""
        *followed, pooler = layers.values()
        return self.on_grid(rollout(pooler.row(), followed))
