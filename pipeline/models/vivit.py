"""ViViT, unfactorised (arXiv 2103.15691, model 1): every token attends to all, and CLS is read."""

from torch import Tensor
from transformers import PretrainedConfig, VivitForVideoClassification

from pipeline.attention import capture_rows
from pipeline.config import Method
from pipeline.models.adapter import Adapter, Explanation, Geometry, tubelet_geometry
from pipeline.sampling import Sampling
from pipeline.staa import cls_attention

_PUBLISHED_STRIDES = {32: 2}
"""Frames between two samples, of Kinetics at 25 fps (arXiv 2103.15691, sec. 4.1)."""

_CLS = slice(0, 1)


class Vivit(Adapter):
    """`VivitForVideoClassification`: A is the last block's row of CLS, see `cls_attention`."""

    model_class = VivitForVideoClassification

    @staticmethod
    def geometry(config: PretrainedConfig) -> Geometry:
        """Grid of a checkpoint, of tubelets."""
        return tubelet_geometry(config.num_frames, config.image_size, config.tubelet_size)

    @staticmethod
    def published_sampling(config: PretrainedConfig) -> Sampling:
        """Take the stride of the published checkpoints if there are as many frames, else uniform.

        They see 32 frames (google/vivit-b-16x2-kinetics400).
        """
        n_frames = Vivit.geometry(config).n_frames
        stride = _PUBLISHED_STRIDES.get(n_frames)
        if stride is None:
            return Sampling(kind="uniform", n_samples=n_frames)
        return Sampling(kind="strided", n_samples=n_frames, stride=stride, target_fps=25.0)

    def explain(self, pixel_values: Tensor, method: Method) -> Explanation:
        """Predict and attribute in one forward pass; see `Adapter.explain`."""
        attention = self.model.vivit.layers[method.layer].attention
        with capture_rows({"cls": (attention, _CLS)}) as rows:
            logits = self.model(pixel_values=pixel_values).logits
        n_times = self.geometry(self.model.config).n_times
        joint = cls_attention(rows["cls"][:, :, 0])
        return Explanation(logits, joint.reshape(len(joint), n_times, -1))
