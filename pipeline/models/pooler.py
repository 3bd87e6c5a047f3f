"""Readout by an attentive pooler: one query attends to all tokens, and is what is classified."""

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn
from transformers import PretrainedConfig

from pipeline.attribution.attention import first_row
from pipeline.attribution.staa import pooled_attention
from pipeline.models.adapter import Adapter
from pipeline.models.explain import Readout


class PooledAdapter(Adapter):
    """A family that is read by an attentive pooler: A is the row of its query, `pooled_attention`.

    That cross-attention is the only place where the prediction is read from tokens, and so the only
    layer: 0, or -1. In the blocks before it tokens attend to tokens, and what A gives a token they
    gathered there from others; rollout follows them.
    """

    input_name = "pixel_values_videos"

    @property
    @abstractmethod
    def pooler(self) -> nn.Module:
        """The attention module whose query 0 is read."""

    @staticmethod
    def n_layers(config: PretrainedConfig) -> int:
        """Count the pooler alone."""
        return 1

    def predict(self, pixel_values: Tensor) -> Tensor:
        """Logits of a batch: (clips, classes); VideoPrism's keep the axis of the query."""
        return super().predict(pixel_values).flatten(1)

    def blocks_of(self, layer: int) -> tuple[str, ...]:
        """Name the pooler, which is the last of the blocks."""
        return tuple(self.blocks())[-1:]

    def readout(self, layer: int) -> Readout:
        """Row of the pooler's query."""
        return {"pooler": (self.pooler, first_row)}

    def attribution(self, rows: Mapping[str, Tensor], *, residual: bool) -> Tensor:
        """Take the row itself; see `Adapter.attribution`."""
        return self.on_grid(rows["pooler"][:, :, 0])

    def tokens_on_grid(self, parts: Tensor) -> Tensor:
        """Unfold all tokens, which is their order; see `Adapter.tokens_on_grid`."""
        return self.grid.unfolded(parts)

    def on_grid(self, row: Tensor) -> Tensor:
        """Shares (..., N) of all tokens as (..., T, P), which is their order."""
        return self.grid.unfolded(pooled_attention(row))
