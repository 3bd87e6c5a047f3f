"""TimeSformer (arXiv 2102.05095): attention over time, then over space, with a CLS token.

Its attention is eager only in transformers, so the adapter swaps the attention modules of the one
model that it holds for `SdpaAttention`, which shares their parameters.
"""

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, TimesformerForVideoClassification

from pipeline.attention import SdpaAttention, capture_rows
from pipeline.config import Method
from pipeline.errors import ModelError
from pipeline.models.adapter import Adapter, Explanation, Geometry
from pipeline.sampling import Sampling
from pipeline.staa import divided_attention

_PUBLISHED_STRIDES = {8: 32, 16: 16, 96: 4}
"""Frames between two samples at 30 fps for TimeSformer, -HR and -L (arXiv 2102.05095, sec. 4)."""

_CLS = slice(0, 1)
_EVERY_QUERY = slice(None)


class Timesformer(Adapter):
    """`TimesformerForVideoClassification` with divided space-time attention."""

    model_class = TimesformerForVideoClassification

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        for layer in model.timesformer.encoder.layer:
            layer.attention.attention = SdpaAttention(layer.attention.attention)
            layer.temporal_attention.attention = SdpaAttention(layer.temporal_attention.attention)

    @staticmethod
    def geometry(config: PretrainedConfig) -> Geometry:
        """Grid of a checkpoint; `ModelError` unless its attention is divided in space and time."""
        if config.attention_type != "divided_space_time":
            raise ModelError(
                f"TimeSformer with attention_type={config.attention_type!r} is not supported: "
                "expected 'divided_space_time'"
            )
        side = config.image_size // config.patch_size
        return Geometry(config.num_frames, side, side, patch_size=config.patch_size)

    @staticmethod
    def published_sampling(config: PretrainedConfig) -> Sampling:
        """Take the stride of the published checkpoint with as many frames, else uniform."""
        stride = _PUBLISHED_STRIDES.get(config.num_frames)
        if stride is None:
            return Sampling(kind="uniform", n_samples=config.num_frames)
        return Sampling(kind="strided", n_samples=config.num_frames, stride=stride)

    @staticmethod
    def has_temporal_attention(config: PretrainedConfig) -> bool:
        """Divided attention has."""
        return bool(config.attention_type == "divided_space_time")

    def explain(self, pixel_values: Tensor, method: Method) -> Explanation:
        """Predict and attribute in one forward pass; see `Adapter.explain`."""
        layer = self.model.timesformer.encoder.layer[method.layer]
        n_clips = len(pixel_values)
        wanted = {
            "spatial": (layer.attention.attention, _CLS),
            "temporal": (layer.temporal_attention.attention, _EVERY_QUERY),
        }
        with capture_rows(wanted) as rows:
            logits = self.model(pixel_values=pixel_values).logits
        joint = divided_attention(
            _per_clip(rows["spatial"][:, :, 0], n_clips),
            _per_clip(rows["temporal"], n_clips),
            residual=method.residual,
        )
        return Explanation(logits, joint)


def _per_clip(rows: Tensor, n_clips: int) -> Tensor:
    """Unfold the batch of rows into (clips, frames or patches, ...)."""
    return rows.reshape(n_clips, -1, *rows.shape[1:])
