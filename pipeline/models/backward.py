"""What a model's output depends on, by one backward pass through all of it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from pipeline.attribution.attention import capture, scores_and_values
from pipeline.attribution.change import on_clips, token_change
from pipeline.attribution.evidence import class_directions
from pipeline.attribution.relevance import GradientWeighted, held
from pipeline.attribution.staa import as_distribution
from pipeline.models.adapter import Adapter


def gradient_relevance(adapter: Adapter, pixel_values: Tensor, classes: Tensor) -> Tensor:
    """Relevance of each patch for the logit of a class (Chefer et al., arXiv 2103.15679).

    Parameters
    ----------
    pixel_values
        (clips, frames, 3, height, width), normalised.
    classes
        (clips,) int64.

    Returns
    -------
    (clips, T, P) float32; sums to 1
    """
    blocks, reads = adapter.blocks(), dict[str, Tensor]()
    with _differentiable(pixel_values) as given, ExitStack() as stack:
        for name, block in blocks.items():
            keep = _keeper(reads, name)
            if block.project:
                stack.callback(block.project[0].register_forward_pre_hook(keep).remove)
            else:
                stack.callback(block.attention.register_forward_hook(keep).remove)
        wanted = {name: (block.attention, scores_and_values) for name, block in blocks.items()}
        with capture(wanted) as scores:
            logits = adapter.predict(given)
        of_class = logits.float().gather(1, classes[:, None]).sum()
        gradients = torch.autograd.grad(of_class, list(reads.values()))
    with torch.no_grad(), torch.autocast(pixel_values.device.type, enabled=False):
        by_name = dict(zip(reads, gradients, strict=True))
        layers = {
            name: GradientWeighted(scores[name], by_name[name], adapter.n_copies(name))
            for name in blocks
        }
        return as_distribution(adapter.rollout(layers))


def _keeper(reads: dict[str, Tensor], name: str) -> Callable[..., None]:
    """Make a hook that keeps a projection's input, or the first output of attention."""

    def keep(module: Any, inputs: tuple[Tensor, ...], output: Any = None) -> None:
        reads[name] = inputs[0] if output is None else output[0]

    return keep


def libra_grad(
    adapter: Adapter, pixel_values: Tensor, directions: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Predict, and find what each patch adds to a direction of the logits, by one backward pass.

    LibraGrad (Mehri et al., arXiv 2411.16760): input x gradient of each token's embedding, with
    the derivatives that `relevance.held` leaves. The parts of all tokens, and what begins in the
    model and not in a patch (CLS, positions, biases), sum to <u, logits>.

    Parameters
    ----------
    pixel_values
        (clips, frames, 3, height, width), normalised.
    directions
        From logits (clips, classes) to K directions u of each clip, (K, clips, classes) float32; K
        backward passes are taken.

    Returns
    -------
    logits
        (clips, classes), those of `Adapter.predict` to the bit where that isn't compiled.
    parts
        (K, clips, T, P) float32, of either sign.
    """
    return _held_parts(adapter, pixel_values, directions, from_median=False)


def held_gradient_from_median(adapter: Adapter, pixel_values: Tensor, classes: Tensor) -> Tensor:
    """`libra_grad` of a class against its rivals, of each token less that of the median frame.

    The direction is ``e_class - softmax(logits of the others)``, the input z - zmed.

    Parameters
    ----------
    pixel_values, classes
        As `gradient_relevance` takes them.

    Returns
    -------
    (clips, T, P) float32, of either sign
    """

    def against_rivals(logits: Tensor) -> Tensor:
        return class_directions(logits, classes)[1:]

    return _held_parts(adapter, pixel_values, against_rivals, from_median=True)[1][0]


def _held_parts(
    adapter: Adapter,
    pixel_values: Tensor,
    directions: Callable[[Tensor], Tensor],
    *,
    from_median: bool,
) -> tuple[Tensor, Tensor]:
    """Logits, and input x gradient with held rules; the input is counted from 0 or from zmed."""
    kept: dict[str, Tensor] = {}

    def leaf(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        kept["z"] = output.detach().requires_grad_()
        return kept["z"]

    projection = adapter.patch_projection
    with _differentiable(pixel_values) as given, ExitStack() as stack:
        stack.callback(projection.register_forward_hook(leaf).remove)
        # Stored frame importance comes from a pass with other last bits.
        exact = not from_median
        stack.enter_context(held(adapter.model, norm_offset=adapter.norm_offset, exact=exact))
        logits = adapter.predict(given)
        of_clips = directions(logits.detach())
        gradients = [
            torch.autograd.grad(
                (logits.float() * u).sum(), kept["z"], retain_graph=number + 1 < len(of_clips)
            )[0]
            for number, u in enumerate(of_clips)
        ]
    with torch.no_grad():
        n_clips = len(pixel_values)
        z = on_clips(kept["z"].float(), n_clips).flatten(3)
        counted = token_change(pixel_values, projection) if from_median else z
        parts = [(counted * on_clips(g.float(), n_clips).flatten(3)).sum(1) for g in gradients]
        return logits.detach(), torch.stack(parts)


@contextmanager
def _differentiable(pixel_values: Tensor) -> Iterator[Tensor]:
    """Copy the clips for a pass that is differentiated and not compiled."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.compiler.set_stance("force_eager"),
    ):
        # Tensors made in inference mode can't be kept for a backward pass.
        yield pixel_values.clone()
