"""What the rest of the pipeline knows about a model of any family."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.attribution.attention import ATTENTION, Scores, watch
from pipeline.attribution.column import Column
from pipeline.attribution.rollout import Mixing
from pipeline.clips.sampling import Sampling
from pipeline.models.geometry import Geometry

Readout = Mapping[str, tuple[nn.Module, Callable[[Scores], Tensor]]]
"""What is read from a layer's attention: by name, the module and a function that takes the rows, of
each head or of their mean."""


@dataclass(frozen=True, eq=False)
class Block:
    """One attention of a model: its module, and the stream that it adds to."""

    attention: nn.Module
    before: nn.Module | None = None
    """LayerNorm of the stream before the attention; None for a pooler, which has none."""
    behind: nn.Module | None = None
    """LayerNorm of the stream behind the attention."""
    project: tuple[nn.Linear, ...] = ()
    """Linear layers from what the heads read to what is added to the stream, in order."""


class Adapter(ABC):
    """A loaded model of one family, ready to explain batches.

    A family is a subclass in a file of its own and a line in `pipeline.models.registry`.
    """

    model_class: ClassVar[type[PreTrainedModel]]
    input_name: ClassVar[str] = "pixel_values"
    """The model's argument that takes the frames."""
    norm_offset: ClassVar[float] = 0.0
    """A LayerNorm scales by its weight plus this."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.grid = self.geometry(model.config)
        self._run_on_sdpa()
        # Watch each module once, before the model may be compiled.
        for module in dict.fromkeys(self._watched()):
            watch(module)

    def _watched(self) -> Iterator[nn.Module]:
        """Modules other than attention whose streams a method reads."""
        yield self.model.classifier
        for block in self.blocks().values():
            yield from (module for module in (block.before, block.behind) if module is not None)
        if self.last_block is not None:
            yield self.last_block

    def _run_on_sdpa(self) -> None:
        """Switch the model's attention, in place, to one that `capture` can read."""
        self.model.set_attn_implementation(ATTENTION)

    @staticmethod
    @abstractmethod
    def geometry(config: PretrainedConfig) -> Geometry:
        """Grid of a checkpoint; `ModelError` if this family can't explain it."""

    @staticmethod
    @abstractmethod
    def published_sampling(config: PretrainedConfig) -> Sampling:
        """How the family's published checkpoints choose the frames they are tested on."""

    @staticmethod
    def n_layers(config: PretrainedConfig) -> int:
        """Layers that `Method.layers` chooses from: those in which the readout attends."""
        return int(config.num_hidden_layers)

    @staticmethod
    def n_heads(config: PretrainedConfig) -> int:
        """Heads of each of these layers."""
        return int(config.num_attention_heads)

    @staticmethod
    def n_channels(config: PretrainedConfig) -> int:
        """Channels of the vector that the classifier reads."""
        return int(config.hidden_size)

    @staticmethod
    def has_temporal_attention(config: PretrainedConfig) -> bool:
        """Whether attention over time is a step of its own, which `Method.residual` can mix."""
        return False

    @staticmethod
    def pools_mean(config: PretrainedConfig) -> bool:
        """Whether the classifier reads the mean of the final tokens instead of a readout token."""
        return False

    @abstractmethod
    def readout(self, layer: int) -> Readout:
        """Rows that make up the readout of a layer; layers count from 0."""

    @abstractmethod
    def attribution(self, rows: Mapping[str, Tensor], *, residual: bool) -> Tensor:
        """Joint attribution from the rows of one layer's readout.

        Parameters
        ----------
        rows
            By the names that `readout` gave, each (batch, heads, rows, tokens) float32; averaged
            heads count as one head.
        residual
            As `Method.residual` says.

        Returns
        -------
        (clips, heads, T, P) float32; sums to 1 over (T, P)
        """

    @abstractmethod
    def blocks(self) -> Mapping[str, Block]:
        """Every attention between the frames' tokens and the readout, by name, first to last."""

    @property
    def last_block(self) -> nn.Module | None:
        """Module whose output is the final tokens, if the classifier reads their mean."""
        return None

    @property
    @abstractmethod
    def patch_projection(self) -> nn.Conv2d | nn.Conv3d:
        """Module that turns each patch or tubelet into a token."""

    def blocks_of(self, layer: int) -> tuple[str, ...]:
        """Names of the `blocks` that make up a layer."""
        return tuple(name for name in self.blocks() if name.split()[-1] == str(layer))

    def streams(self, name: str, before: Tensor, behind: Tensor) -> tuple[Tensor, Tensor]:
        """Reshape the streams of a block to what its attention takes: (batch, tokens, width)."""
        return before, behind

    def n_copies(self, name: str) -> int:
        """Count the batch items of a block's attention that hold the same readout."""
        return 1

    @abstractmethod
    def rollout(self, layers: Mapping[str, Mixing]) -> Tensor:
        """Follow the readout back through layers: (clips, T, P) float32; sums to 1.

        Parameters
        ----------
        layers
            All of `blocks`, or those of one layer, by name and in order.
        """

    @abstractmethod
    def column(self, pixel_values: Tensor) -> Column:
        """Path of the readout from its initial value to the logits, by the model's own modules.

        If the mean of the final tokens is classified, the path begins behind the mean and has no
        start.

        Parameters
        ----------
        pixel_values
            (clips, frames, 3, height, width); needed for a readout that begins as a patch.
        """

    @abstractmethod
    def tokens_on_grid(self, parts: Tensor) -> Tensor:
        """Arrange values of the tokens that a readout reads as (clips, heads, T, P).

        Parameters
        ----------
        parts
            (batch, heads, tokens), with as many batch items as the readout's attention has.
        """

    def predict(self, pixel_values: Tensor) -> Tensor:
        """Logits of a batch: (clips, classes)."""
        logits: Tensor = self.model(**{self.input_name: pixel_values}).logits
        return logits
