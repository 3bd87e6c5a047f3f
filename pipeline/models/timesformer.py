"""TimeSformer (arXiv 2102.05095): attention over time, then over space, with a CLS token.

Its ablations (sec. 3.2) with joint space-time attention, or over space alone, are here too. Their
attention is eager only in transformers, so the adapter swaps the attention modules of the one model
that it holds for `SdpaAttention`, which shares their parameters.
"""

from torch import Tensor
from transformers import PretrainedConfig, TimesformerForVideoClassification

from pipeline.attention import SdpaAttention, capture_rows
from pipeline.config import Method
from pipeline.errors import ModelError
from pipeline.models.adapter import Adapter, Explanation, Geometry
from pipeline.sampling import Sampling
from pipeline.staa import cls_attention, divided_attention, frame_attention

_PUBLISHED_STRIDES = {8: 32, 16: 16, 96: 4}
"""Frames between two samples at 30 fps for TimeSformer, -HR and -L (arXiv 2102.05095, sec. 4)."""

_ATTENTION_TYPES = ("divided_space_time", "joint_space_time", "space_only")

_CLS = slice(0, 1)
_EVERY_QUERY = slice(None)


class Timesformer(Adapter):
    """`TimesformerForVideoClassification`; its ``attention_type`` decides what is read.

    - ``divided_space_time``: CLS's rows over space, carried back over time, `divided_attention`.
    - ``joint_space_time``: CLS's row over all tokens, `cls_attention`.
    - ``space_only``: the frames are a batch of pictures, each with its CLS; transformers returns a
      prediction of each frame. Their logits are averaged here, which equals the paper's mean over
      the frames' CLS but for the order of it and the last LayerNorm; A is `frame_attention`.
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
        """Grid of a checkpoint; `ModelError` if its attention is of no known type."""
        if config.attention_type not in _ATTENTION_TYPES:
            raise ModelError(
                f"TimeSformer with attention_type={config.attention_type!r} is not supported: "
                f"expected one of {', '.join(_ATTENTION_TYPES)}"
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
        wanted = {"cls": (layer.attention.attention, _CLS)}
        if self.has_temporal_attention(self.model.config):
            wanted["temporal"] = (layer.temporal_attention.attention, _EVERY_QUERY)
        with capture_rows(wanted) as rows:
            logits = self.model(pixel_values=pixel_values).logits

        n_clips, cls_rows = len(pixel_values), rows["cls"][:, :, 0]
        kind = self.model.config.attention_type
        if kind == "joint_space_time":
            # The tokens of a patch lie together, one after the other in time.
            n_times = self.geometry(self.model.config).n_times
            joint = cls_attention(cls_rows).reshape(n_clips, -1, n_times).transpose(1, 2)
        elif kind == "space_only":
            logits = _per_clip(logits, n_clips).mean(dim=1)
            joint = frame_attention(_per_clip(cls_rows, n_clips))
        else:
            joint = divided_attention(
                _per_clip(cls_rows, n_clips),
                _per_clip(rows["temporal"], n_clips),
                residual=method.residual,
            )
        return Explanation(logits, joint)


def _per_clip(values: Tensor, n_clips: int) -> Tensor:
    """Unfold a batch of frames or patches into (clips, frames or patches, ...)."""
    return values.reshape(n_clips, -1, *values.shape[1:])
