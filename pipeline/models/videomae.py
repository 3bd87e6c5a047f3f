"""VideoMAE (arXiv 2203.12602): every token attends to all, and there is no CLS."""

from torch import Tensor
from transformers import PretrainedConfig, VideoMAEForVideoClassification

from pipeline.attention import Queries, capture_rows
from pipeline.config import Method
from pipeline.models.adapter import Adapter, Explanation, Geometry, tubelet_geometry
from pipeline.sampling import Sampling
from pipeline.staa import pooled_attention

_PUBLISHED_STRIDES = {16: 4}
"""Frames between two samples of Kinetics, at 30 fps (arXiv 2203.12602, sec. 4.1)."""

_SOMETHING_SOMETHING_CLASSES = 174
"""Something-Something V2's checkpoints sample the whole clip evenly (arXiv 2203.12602, app.)."""

_FIRST_TOKEN = slice(0, 1)


class VideoMAE(Adapter):
    """`VideoMAEForVideoClassification`: A is the mean over the last block's rows of all tokens.

    With ``use_mean_pooling=False`` the classifier reads the first token instead, as if it were CLS.
    It is a patch like the others, in the corner of the first frames; A is its row, with its own
    column, which is that patch's share.
    """

    model_class = VideoMAEForVideoClassification

    @staticmethod
    def geometry(config: PretrainedConfig) -> Geometry:
        """Grid of a checkpoint, of tubelets."""
        patch = config.patch_size
        sides = (patch, patch) if isinstance(patch, int) else tuple(patch)
        return tubelet_geometry(config.num_frames, config.image_size, (config.tubelet_size, *sides))

    @staticmethod
    def published_sampling(config: PretrainedConfig) -> Sampling:
        """Take the stride of Kinetics' checkpoints if there are as many frames, else uniform.

        They see 16 frames (MCG-NJU/videomae-base-finetuned-kinetics); so do those of
        Something-Something V2, but uniformly (MCG-NJU/videomae-base-finetuned-ssv2).
        """
        n_frames = VideoMAE.geometry(config).n_frames
        stride = _PUBLISHED_STRIDES.get(n_frames)
        if stride is None or config.num_labels == _SOMETHING_SOMETHING_CLASSES:
            return Sampling(kind="uniform", n_samples=n_frames)
        return Sampling(kind="strided", n_samples=n_frames, stride=stride)

    def explain(self, pixel_values: Tensor, method: Method) -> Explanation:
        """Predict and attribute in one forward pass; see `Adapter.explain`."""
        config = self.model.config
        queries: Queries = "mean" if config.use_mean_pooling else _FIRST_TOKEN
        attention = self.model.videomae.encoder.layer[method.layer].attention.attention
        with capture_rows({"readout": (attention, queries)}) as rows:
            logits = self.model(pixel_values=pixel_values).logits
        joint = pooled_attention(rows["readout"][:, :, 0])
        return Explanation(logits, joint.reshape(len(joint), self.geometry(config).n_times, -1))
