"""VideoPrism (arXiv 2402.13217): attention over space, then over time, and an attentive pooler."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, VideoPrismForVideoClassification

from pipeline.attribution.column import Affine, Column, ColumnLayer, Norm
from pipeline.attribution.rollout import Mixing, rollout
from pipeline.clips.sampling import Sampling
from pipeline.errors import ModelError
from pipeline.models.adapter import Block
from pipeline.models.geometry import Geometry, tubelet_geometry
from pipeline.models.pooler import PooledAdapter


class VideoPrism(PooledAdapter):
    """`VideoPrismForVideoClassification`: a factorised encoder, then a pooler.

    As in ViViT's model 2, the encoder's first blocks attend over the patches of a frame, its last
    over the times of a patch. The pooler's query then attends to all T * P tokens at once, so A is
    joint over space and time. What A counts at (t, p) is read there, but the blocks before gathered
    it: the spatial ones from all of frame t, the temporal ones from all times of patch p.

    The encoder's scores are capped, which SDPA can't do; `pipeline.attribution.attention.attend`
    computes them for some queries at a time. The pooler's scores aren't capped.
    """

    model_class = VideoPrismForVideoClassification
    norm_offset = 1.0

    @staticmethod
    def geometry(config: PretrainedConfig) -> Geometry:
        """Grid of a checkpoint; `ModelError` if its tubelets span more than one frame."""
        if config.tubelet_size[0] != 1:
            raise ModelError(
                f"VideoPrism with tubelets of {config.tubelet_size[0]} frames is not supported: "
                "expected 1, which its temporal blocks assume"
            )
        return tubelet_geometry(config.num_frames, config.image_size, config.tubelet_size)

    @staticmethod
    def published_sampling(config: PretrainedConfig) -> Sampling:
        """Take frames evenly over the clip, as many as the model was trained on.

        That is 16 for VideoPrism-B and 8 for -L (cards of google/videoprism-base-f16r288 and
        -large-f8r288). The cards name no stride, because users train the classifiers.
        """
        return Sampling(kind="uniform", n_samples=config.num_frames)

    @property
    def pooler(self) -> nn.Module:
        """The pooling head."""
        module: nn.Module = self.model.head
        return module

    def column(self, pixel_values: Tensor) -> Column:
        """Path of the query: what it reads replaces it, without an MLP, and is normalised."""
        norm = self.model.head_layernorm
        project = Affine.of(self.model.head.o_proj)
        return Column(
            start=torch.zeros_like(norm.bias),
            layers=(ColumnLayer(self.model.head, project, keeps_stream=False),),
            norm=Norm(norm.weight, norm.bias, norm.eps, self.norm_offset),
            classifier=Affine.of(self.model.classifier),
        )

    @property
    def patch_projection(self) -> nn.Conv3d:
        """Layer that embeds patches."""
        projection: nn.Conv3d = (
            self.model.vision_model.spatial_embeddings.patch_embeddings.projection
        )
        return projection

    def blocks(self) -> Mapping[str, Block]:
        """Attention of the spatial blocks, the temporal blocks and the pooler, in that order."""
        encoder = self.model.vision_model
        layers = {f"spatial {i}": layer for i, layer in enumerate(encoder.spatial_layers)}
        layers |= {f"temporal {i}": layer for i, layer in enumerate(encoder.temporal_layers)}
        blocks = {
            name: Block(
                layer.attention,
                layer.layernorm_before,
                layer.layernorm_after,
                (layer.attention.o_proj,),
            )
            for name, layer in layers.items()
        }
        head = self.model.head
        query = Block(head, None, self.model.head_layernorm, (head.o_proj,))
        return {**blocks, "pooler": query}

    def rollout(self, layers: Mapping[str, Mixing]) -> Tensor:
        """Roll the pooler's row out over the times of each patch, then within each frame."""
        spatial = [layer for name, layer in layers.items() if name.startswith("spatial")]
        temporal = [layer for name, layer in layers.items() if name.startswith("temporal")]
        joint = self.on_grid(layers["pooler"].row())
        n_clips, n_times, n_patches = joint.shape
        over_time = rollout(joint.transpose(1, 2).flatten(0, 1), temporal)
        joint = over_time.reshape(n_clips, n_patches, n_times).transpose(1, 2)
        return rollout(joint.flatten(0, 1), spatial).reshape(n_clips, n_times, n_patches)
