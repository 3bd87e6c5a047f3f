"""V-JEPA 2 (arXiv 2506.09985): an encoder with joint attention, read by an attentive pooler."""

from torch import Tensor
from transformers import PretrainedConfig, VJEPA2ForVideoClassification

from pipeline.config import Method
from pipeline.models.adapter import Adapter, Explanation, Geometry, tubelet_geometry
from pipeline.models.pooler import explain_pooler
from pipeline.sampling import Sampling

_PUBLISHED_SAMPLING = {
    16: Sampling(kind="strided", n_samples=16, stride=4, target_fps=12.0),
    32: Sampling(kind="strided", n_samples=32, stride=2, target_fps=30.0),
    64: Sampling(kind="strided", n_samples=64, stride=2, target_fps=12.0),
}
"""By frames, ``frame_step`` of configs/eval/vitl and vitg-384 in facebookresearch/vjepa2.

The classifiers of 16 and 64 frames are of Something-Something V2, whose clips have 12 frames/s,
those of 32 frames of Diving-48, with 30.
"""


class VJEPA2(Adapter):
    """`VJEPA2ForVideoClassification`: A is the row of the pooler's query, see `pooled_attention`.

    The pooler has self-attention blocks (3 in the published checkpoints), then one query that
    attends to the tokens. That cross-attention is the only place where the prediction is read from
    tokens, and so the only layer: 0, or -1. In the blocks before, and in the encoder, tokens attend
    to tokens, and what A gives a token they gathered there from others.
    """

    model_class = VJEPA2ForVideoClassification

    @staticmethod
    def geometry(config: PretrainedConfig) -> Geometry:
        """Grid of a checkpoint, of tubelets."""
        patch = config.patch_size
        tubelet = (config.tubelet_size, patch, patch)
        return tubelet_geometry(config.frames_per_clip, config.crop_size, tubelet)

    @staticmethod
    def published_sampling(config: PretrainedConfig) -> Sampling:
        """Take the stride of the published classifier with as many frames, else uniform."""
        n_frames = VJEPA2.geometry(config).n_frames
        uniform = Sampling(kind="uniform", n_samples=n_frames)
        return _PUBLISHED_SAMPLING.get(n_frames, uniform)

    @staticmethod
    def n_layers(config: PretrainedConfig) -> int:
        """Count the pooler's cross-attention alone."""
        return 1

    def explain(self, pixel_values: Tensor, method: Method) -> Explanation:
        """Predict and attribute in one forward pass; see `Adapter.explain`."""
        pooler = self.model.pooler.cross_attention_layer.cross_attn
        return explain_pooler(self.model, pooler, pixel_values, self.geometry(self.model.config))
