"""What the rest of the pipeline knows of a model, whatever its family."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.attribution.attention import (
    ATTENTION,
    Captured,
    Scores,
    all_scores,
    capture,
    heads_averaged,
)
from pipeline.attribution.method import Method
from pipeline.clips.sampling import Sampling
from pipeline.models.geometry import Geometry


@dataclass(frozen=True)
class Explanation:
    """What one forward pass says of a batch: the prediction, and what it was read from."""

    logits: Tensor
    """(clips, classes), in the precision of the forward pass."""
    joint: Tensor
    """(clips, layers, T, P) float32; the joint attribution of each layer that was asked for, first
    to last, of its heads averaged. Sums to 1 over (T, P)."""
    head_joint: Tensor | None = None
    """(clips, layers, heads, T, P) float32; of each head alone, where heads are kept. `joint` isn't
    their mean where shares are renormalised: heads are averaged before. Of divided attention these
    are the heads of the attention over space, and that over time is averaged over its own."""


Readout = Mapping[str, tuple[nn.Module, Callable[[Scores], Tensor]]]
"""What is read of a layer's attention: by name, the module and the rows to take, of each head or of
their mean."""


class Adapter(ABC):
    """A loaded model of one family, ready to explain batches.

    A family is a subclass in a file of its own and a line in `pipeline.models.registry`.
    """

    model_class: ClassVar[type[PreTrainedModel]]
    input_name: ClassVar[str] = "pixel_values"
    """The model's argument that takes the frames."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.grid = self.geometry(model.config)
        self._run_on_sdpa()

    def _run_on_sdpa(self) -> None:
        """Switch the model's attention over to one that `capture` can read, in place."""
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
        """Layers that `Method.layers` chooses from: those that the readout attends in."""
        return int(config.num_hidden_layers)

    @staticmethod
    def n_heads(config: PretrainedConfig) -> int:
        """Heads of each of these layers."""
        return int(config.num_attention_heads)

    @staticmethod
    def has_temporal_attention(config: PretrainedConfig) -> bool:
        """Whether attention over time is a step of its own, that `Method.residual` can mix."""
        return False

    @abstractmethod
    def readout(self, layer: int) -> Readout:
        """Rows that the readout of a layer, from 0, consists of."""

    @abstractmethod
    def attribution(self, rows: Mapping[str, Tensor], *, residual: bool) -> Tensor:
        """Joint attribution from the rows of one layer's readout.

        Parameters
        ----------
        rows
            What `readout` named, each (batch, heads, rows, tokens) float32; heads that are averaged
            are one head.
        residual
            As `Method.residual` says.

        Returns
        -------
        (clips, heads, T, P) float32; sums to 1 over (T, P)
        """

    @abstractmethod
    def attention(self) -> Mapping[str, nn.Module]:
        """Every attention module between the frames' tokens and the readout, by name."""

    @abstractmethod
    def rollout(self, scores: Captured[str, Scores]) -> Tensor:
        """Attention rollout from what `attention` named: (clips, T, P) float32; sums to 1."""

    def predict(self, pixel_values: Tensor) -> Tensor:
        """Logits of a batch: (clips, classes)."""
        logits: Tensor = self.model(**{self.input_name: pixel_values}).logits
        return logits

    def explain(self, pixel_values: Tensor, method: Method) -> Explanation:
        """Predict and attribute in one forward pass.

        Parameters
        ----------
        pixel_values
            (clips, frames, 3, height, width), normalised.
        """
        if method.name == "rollout":
            every = {name: (module, all_scores) for name, module in self.attention().items()}
            with capture(every) as scores:
                logits = self.predict(pixel_values)
            with _no_autocast(pixel_values):
                return Explanation(logits, self.rollout(scores)[:, None])

        layers = method.chosen_layers(self.n_layers(self.model.config))
        readouts = {layer: self.readout(layer) for layer in layers}
        # Averaged at once: of all layers of a large model, each head's rows are gigabytes.
        averages = method.heads == "mean"
        wanted = {
            (layer, name): (module, heads_averaged(read) if averages else read)
            for layer, readout in readouts.items()
            for name, (module, read) in readout.items()
        }
        with capture(wanted) as rows:
            logits = self.predict(pixel_values)
        by_layer = [
            {name: rows[layer, name] for name in readout} for layer, readout in readouts.items()
        ]
        averaged = [
            {name: row.mean(dim=1, keepdim=True) for name, row in layer.items()}
            for layer in by_layer
        ]
        with _no_autocast(pixel_values):
            return Explanation(
                logits,
                self._attributions(averaged, method)[:, :, 0],
                None if averages else self._attributions(by_layer, method),
            )

    def _attributions(self, layers: Sequence[Mapping[str, Tensor]], method: Method) -> Tensor:
        """Stack the layers' attributions: (clips, layers, heads, T, P)."""
        joint = [self.attribution(rows, residual=method.residual) for rows in layers]
        return torch.stack(joint, dim=1)


def _no_autocast(tensor: Tensor) -> torch.autocast:
    """Attributions are float32 from the softmax on, whatever the forward pass ran in."""
    return torch.autocast(tensor.device.type, enabled=False)
