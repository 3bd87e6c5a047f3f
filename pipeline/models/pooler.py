"""Readout by an attentive pooler: one query attends to all tokens and is then classified."""

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn
from transformers import PretrainedConfig

from pipeline.attribution.attention import first_row
from pipeline.attribution.staa import pooled_attention
from pipeline.models.adapter import Adapter, Readout


class PooledAdapter(Adapter):
    """A family that is read by an attentive pooler: A is the row of its query, `pooled_attention`.

    The prediction is read from tokens in this cross-attention alone, so it is the only layer: 0, or
    -1. In the blocks before it, tokens gather from other tokens, and A counts what they gathered as
    theirs; rollout follows it back.
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
        """Use the row itself; see `Adapter.attribution`."""
        return self.on_grid(rows["pooler"][:, :, 0])

    def tokens_on_grid(self, parts: Tensor) -> Tensor:
        """Unfold all tokens in their order; see `Adapter.tokens_on_grid`."""
        return self.grid.unfolded(parts)

    def on_grid(self, row: Tensor) -> Tensor:
        """Unfold shares (..., N) of all tokens, in their order, to (..., T, P)."""
        return self.grid.unfolded(pooled_attention(row))
