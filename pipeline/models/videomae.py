"""VideoMAE (arXiv 2203.12602): every token attends to all, and there is no CLS."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, VideoMAEForVideoClassification

from pipeline.attribution.attention import Captured, Scores, first_row, mean_row
from pipeline.attribution.rollout import all_on_first, rollout
from pipeline.attribution.staa import pooled_attention
from pipeline.clips.sampling import Sampling
from pipeline.models.adapter import Adapter, Readout
from pipeline.models.geometry import Geometry, tubelet_geometry

_PUBLISHED_STRIDES = {16: 4}
"""Frames between two samples of Kinetics, at 30 fps (arXiv 2203.12602, sec. 4.1;
``--sampling_rate`` of the scripts/kinetics in MCG-NJU/VideoMAE)."""

_SOMETHING_SOMETHING_CLASSES = 174
"""Something-Something V2's checkpoints sample the whole clip evenly (arXiv 2203.12602, app.; no
rate in the scripts/ssv2 of MCG-NJU/VideoMAE)."""


class VideoMAE(Adapter):
    """`VideoMAEForVideoClassification`: A is the mean over a block's rows of all tokens.

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

    def readout(self, layer: int) -> Readout:
        """Mean row over all tokens, or the row of the first."""
        attention = self.model.videomae.encoder.layer[layer].attention.attention
        return {"readout": (attention, mean_row if self._pools else first_row)}

    def attribution(self, rows: Mapping[str, Tensor], *, residual: bool) -> Tensor:
        """Take the row itself; see `Adapter.attribution`."""
        return self._on_grid(rows["readout"][:, :, 0])

    def attention(self) -> Mapping[str, nn.Module]:
        """Attention of every block."""
        blocks = self.model.videomae.encoder.layer
        return {str(index): block.attention.attention for index, block in enumerate(blocks)}

    def rollout(self, scores: Captured[str, Scores]) -> Tensor:
        """Roll all tokens alike out, or the first."""
        layers = [scores[name] for name in self.attention()]
        readout = all_on_first(layers[0])
        if self._pools:
            readout = torch.full_like(readout, 1 / readout.shape[1])
        return self._on_grid(rollout(readout, layers))

    @property
    def _pools(self) -> bool:
        return bool(self.model.config.use_mean_pooling)

    def _on_grid(self, row: Tensor) -> Tensor:
        return self.grid.unfolded(pooled_attention(row))
