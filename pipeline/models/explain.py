"""Predict and attribute in one forward pass of a model, by any method.

LibraGrad alone goes back through all of that pass.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.attribution.attention import (
    all_scores,
    capture,
    heads_averaged,
    scores_and_values,
    stream_before,
    stream_behind,
)
from pipeline.attribution.change import change
from pipeline.attribution.contribution import Contributions
from pipeline.attribution.evidence import (
    best_classes,
    class_directions,
    read_gradients,
    read_parts,
    start_gradient,
    token_parts,
    token_parts_stepped_back,
    top_directions,
)
from pipeline.attribution.method import Method
from pipeline.attribution.rollout import HalfSkip
from pipeline.attribution.staa import as_distribution
from pipeline.models.adapter import Adapter
from pipeline.models.backward import libra_grad
from pipeline.models.frame_importance import FRAME_IMPORTANCE


@dataclass(frozen=True)
class Explanation:
    """What one forward pass says about a batch: the prediction, and what it was read from."""

    logits: Tensor
    """(clips, classes), in the precision of the forward pass."""
    joint: Tensor
    """(clips, layers, T, P) float32; the joint attribution of each requested layer, first to last,
    with its heads taken together. Sums to 1 over (T, P)."""
    head_joint: Tensor | None = None
    """(clips, layers, heads, T, P) float32; the same of each head alone, if heads are kept. `joint`
    isn't their mean where shares are renormalised, as heads are averaged before that. With divided
    attention these are the heads of the attention over space; attention over time is averaged over
    its heads."""
    total: Tensor | None = None
    """(clips, T, P) float32; the joint attribution of the layers together, by evidence alone."""
    target: Tensor | None = None
    """(clips,) int64; the class that was explained, if the method explains one."""
    signed: Tensor | None = None
    """(clips, T, P) float32, in logits; what speaks for the class rather than for the others, or
    for the best class rather than for the second."""
    runner_up: Tensor | None = None
    """(clips, T, P) float32; the joint attribution of the second best class, if requested."""

    frame_importance: Tensor | None = None
    """(clips, T) float32; the share of each time in what the class depends on, see
    `pipeline.models.frame_importance`. Sums to 1."""

    pooled: Tensor | None = None
    """(clips, channels), in the precision of the forward pass; what the classifier reads."""

    @property
    def attribution(self) -> Tensor:
        """Joint attribution of the run, (clips, T, P): of all layers together, or of the last."""
        return self.joint[:, -1] if self.total is None else self.total


def explain(
    adapter: Adapter, pixel_values: Tensor, method: Method, classes: Tensor | None = None
) -> Explanation:
    """Predict and attribute in one forward pass.

    Parameters
    ----------
    pixel_values
        (clips, frames, 3, height, width), normalised.
    classes
        (clips,) int64: the class to explain in each clip; -1 means its prediction, None all
        predictions. Used by methods that explain a class. The caller resolves `Method.target`,
        except for ``top2``.
    """
    with capture({"classifier": (adapter.model.classifier, stream_before)}) as captured:
        if method.name == "evidence":
            explanation = _by_evidence(adapter, pixel_values, method, classes)
        elif method.name == "libragrad":
            explanation = _by_libra_grad(adapter, pixel_values, method, classes)
        elif method.name == "rollout":
            explanation = _by_rollout(adapter, pixel_values)
        elif method.name in ("contribution", "rollout-contribution"):
            explanation = _by_contribution(adapter, pixel_values, method)
        else:
            explanation = _by_staa(adapter, pixel_values, method)
        # Frames that are classified one by one have a vector each.
        read = captured["classifier"].detach()
        pooled = read.reshape(len(pixel_values), -1, read.shape[-1]).mean(dim=1)
        explanation = replace(explanation, pooled=pooled)
    if method.frame_importance is None:
        return explanation
    target = _target(explanation.logits, classes)
    importance_of = FRAME_IMPORTANCE[method.frame_importance]
    return replace(
        explanation, target=target, frame_importance=importance_of(adapter, pixel_values, target)
    )


def _target(logits: Tensor, classes: Tensor | None) -> Tensor:
    """Class to explain in each clip, (clips,) int64: the given one, or the prediction."""
    predicted = best_classes(logits, 1)[:, 0]
    return predicted if classes is None else torch.where(classes >= 0, classes, predicted)


def _by_rollout(adapter: Adapter, pixel_values: Tensor) -> Explanation:
    every = {name: (block.attention, all_scores) for name, block in adapter.blocks().items()}
    with capture(every) as scores:
        logits = adapter.predict(pixel_values)
    with _no_autocast(pixel_values):
        layers = {name: HalfSkip(scores[name]) for name in every}
        return Explanation(logits, adapter.rollout(layers)[:, None])


def _by_contribution(adapter: Adapter, pixel_values: Tensor, method: Method) -> Explanation:
    chosen = method.chosen_layers(adapter.n_layers(adapter.model.config))
    together = [adapter.blocks_of(layer) for layer in chosen]
    if method.name == "rollout-contribution":
        together = [tuple(adapter.blocks())]
    blocks = {name: adapter.blocks()[name] for names in together for name in names}
    norms = {norm for block in blocks.values() for norm in (block.before, block.behind) if norm}
    wanted: dict[object, tuple[nn.Module, Callable[[Any], Any]]] = {
        **{name: (block.attention, scores_and_values) for name, block in blocks.items()},
        # A norm may be behind one attention and before the next.
        **{norm: (norm, stream_before) for norm in norms},
    }
    with capture(wanted) as captured:
        logits = adapter.predict(pixel_values)

    def contributions(name: str) -> Contributions:
        block = blocks[name]
        before, behind = None, captured[block.behind]
        if block.before is not None:
            before, behind = adapter.streams(name, captured[block.before], behind)
        weights = [linear.weight.detach().float() for linear in block.project]
        project = functools.reduce(lambda first, then: then @ first, weights) if weights else None
        return Contributions(captured[name], before, behind, project, adapter.n_copies(name))

    with _no_autocast(pixel_values):
        joint = [adapter.rollout({name: contributions(name) for name in of}) for of in together]
        return Explanation(logits, torch.stack(joint, dim=1))


def _by_staa(adapter: Adapter, pixel_values: Tensor, method: Method) -> Explanation:
    layers = method.chosen_layers(adapter.n_layers(adapter.model.config))
    readouts = {layer: dict(adapter.readout(layer)) for layer in layers}
    if method.name == "space":
        for readout in readouts.values():
            readout.pop("temporal", None)
    # Average at once: each head's rows, over all layers of a large model, take gigabytes.
    averages = method.heads == "mean"
    wanted = {
        (layer, name): (module, heads_averaged(read) if averages else read)
        for layer, readout in readouts.items()
        for name, (module, read) in readout.items()
    }
    with capture(wanted) as rows:
        logits = adapter.predict(pixel_values)
    by_layer = [
        {name: rows[layer, name] for name in readout} for layer, readout in readouts.items()
    ]
    averaged = [
        {name: row.mean(dim=1, keepdim=True) for name, row in layer.items()} for layer in by_layer
    ]

    def attributions(layers: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Stack the layers' attributions: (clips, layers, heads, T, P)."""
        return torch.stack(
            [adapter.attribution(rows, residual=method.residual) for rows in layers], dim=1
        )

    with _no_autocast(pixel_values):
        return Explanation(
            logits,
            attributions(averaged)[:, :, 0],
            None if averages else attributions(by_layer),
        )


def _by_evidence(
    adapter: Adapter, pixel_values: Tensor, method: Method, classes: Tensor | None
) -> Explanation:
    parts_of = (
        _parts_of_final_tokens if adapter.pools_mean(adapter.model.config) else _parts_of_reads
    )
    logits, target, parts = parts_of(adapter, pixel_values, method, classes)
    with _no_autocast(pixel_values):
        signed = parts.sum(dim=(2, 3))
        of_heads, of_layers, of_all = _positive(parts, method)
        if method.change_weighted:
            moved = change(pixel_values, adapter.patch_projection)
            of_heads = of_heads * moved[:, None, None]
            of_layers, of_all = of_layers * moved[:, None], of_all * moved
        joint, total = as_distribution(of_layers), as_distribution(of_all)
        of_class = Explanation(
            logits,
            joint[0],
            head_joint=as_distribution(of_heads[0]) if method.heads == "keep" else None,
            total=total[0],
            target=target,
            signed=signed[1],
        )
        if method.target != "top2":
            return of_class
        return replace(of_class, runner_up=total[1], signed=signed[0] - signed[1])


def _by_libra_grad(
    adapter: Adapter, pixel_values: Tensor, method: Method, classes: Tensor | None
) -> Explanation:
    def directions(logits: Tensor) -> Tensor:
        given = _directions(logits, method, classes)[1]
        # Each is a backward pass: of one class, that against its rivals says where and when, too.
        return given if method.target == "top2" else given[1:]

    logits, parts = libra_grad(adapter, pixel_values, directions)
    with _no_autocast(pixel_values):
        joint = as_distribution(parts.clamp(min=0))
        of_class = Explanation(
            logits,
            joint[0][:, None],
            target=_directions(logits, method, classes)[0],
            signed=parts[0],
        )
        if method.target != "top2":
            return of_class
        return replace(of_class, runner_up=joint[1], signed=parts[0] - parts[1])


def _positive(parts: Tensor, method: Method) -> tuple[Tensor, Tensor, Tensor]:
    """Positive evidence of each head, of each layer, and of all layers, as `Method.clamp` says.

    Parameters
    ----------
    parts
        (K, clips, layers, heads, T, P)
    """
    of_heads = parts.clamp(min=0)
    if method.clamp == "parts":
        return of_heads, of_heads.sum(3), of_heads.sum((2, 3))
    return of_heads, parts.sum(3).clamp(min=0), parts.sum((2, 3)).clamp(min=0)


def _parts_of_reads(
    adapter: Adapter, pixel_values: Tensor, method: Method, classes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, classes, and parts (K, clips, layers, heads, T, P) float32 of the chosen layers."""
    column = adapter.column(pixel_values)
    chosen = method.chosen_layers(len(column.layers))
    wanted = {
        index: (layer.attention, layer.read(with_tokens=index in chosen))
        for index, layer in enumerate(column.layers)
    }
    with capture(wanted) as captured:
        logits = adapter.predict(pixel_values)
    reads = [captured[index] for index in wanted]
    with _no_autocast(pixel_values):
        target, directions = _directions(logits, method, classes)
        gradients = read_gradients(column, reads, directions, frozen=method.derivative == "frozen")
        parts = [read_parts(reads[i], gradients[i], column.n_reads) for i in chosen]
        on_grid = [_each(adapter.tokens_on_grid, of_layer) for of_layer in parts]
        return logits, target, torch.stack(on_grid, dim=2)


def _parts_of_final_tokens(
    adapter: Adapter, pixel_values: Tensor, method: Method, classes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Do as `_parts_of_reads` does, where the mean of final tokens is classified: one layer."""
    method.chosen_layers(1)
    column, frozen = adapter.column(pixel_values), method.derivative == "frozen"
    steps_back = method.steps_back(pools_mean=True)
    wanted: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "final": (adapter.last_block, stream_behind)
    }
    if steps_back:
        last = list(adapter.blocks().values())[-1]
        wanted["scores"] = (last.attention, scores_and_values)
        wanted["before"] = (last.before, stream_before)
        wanted["behind"] = (last.behind, stream_before)
    with capture(wanted) as captured:
        logits = adapter.predict(pixel_values)
    with _no_autocast(pixel_values):
        target, directions = _directions(logits, method, classes)
        pooled = replace(column, start=captured["final"].float().mean(1))
        gradient = start_gradient(pooled, directions, frozen=frozen)
        if steps_back:
            parts = token_parts_stepped_back(
                *(captured[name] for name in ("scores", "before", "behind")),
                block=column.layers[0],
                gradient=gradient,
                frozen=frozen,
            )
        else:
            parts = token_parts(captured["final"], gradient)
        return logits, target, _each(adapter.tokens_on_grid, parts)[:, :, None]


def _directions(logits: Tensor, method: Method, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Class that is explained, (clips,), and two directions for each clip, (2, clips, classes)."""
    if method.target == "top2":
        return best_classes(logits, 1)[:, 0], top_directions(logits)
    target = _target(logits, classes)
    return target, class_directions(logits, target)


def _each(function: Callable[[Tensor], Tensor], stacked: Tensor) -> Tensor:
    """Apply a function to each item along the first axis."""
    return torch.stack([function(one) for one in stacked])


def _no_autocast(tensor: Tensor) -> torch.autocast:
    """Switch autocast off: attributions are float32 from the softmax on in any precision."""
    return torch.autocast(tensor.device.type, enabled=False)
