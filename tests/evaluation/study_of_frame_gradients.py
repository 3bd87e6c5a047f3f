"""How near gradients taken in other ways come to the frames' Shapley values, over committed models.

    python -m tests.evaluation.study_of_frame_gradients --clips 16 --seeds 4201

Frame importance by a gradient is z - zmed, the tokens' embeddings less those of the median frame,
times a gradient by z. Here it is taken at other points of the way from the median frame (0) to the
clip (1), with LibraGrad's rules (`held`) or without (`plain`), of another direction of the logits,
and summed with or without its sign. At 0.5, plain and signed, it is the midpoint rule, which gives
the Shapley values of any quadratic function. Prints the mean rank agreement with the exact Shapley
values over clips, by model and camera; what takes several points costs as many backward passes.
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from jobs.benchmark import TASKS, subject_of
from pipeline.attribution.change import median_frame, on_clips, token_change
from pipeline.attribution.evidence import class_directions
from pipeline.attribution.relevance import held
from pipeline.evaluation.shapley import rank_agreement
from pipeline.models.adapter import Adapter
from pipeline.models.frame_importance import by_gradient, by_insertion
from pipeline.synthetic.tasks import Camera

Direction = Literal["odds", "logit", "less the mean"]


@dataclass(frozen=True)
class Way:
    """How a gradient is taken and summed."""

    points: tuple[float, ...] = (1.0,)
    """Shares of the way from the median frame to the clip; gradients are averaged."""
    rules: Literal["held", "plain"] = "held"
    direction: Direction = "odds"
    """`odds` is <u, logits> as in `held_gradient`; the log-probability's gradient is a multiple."""
    parts: Literal["positive", "signed"] = "positive"
    """Whether tokens that speak against the class count as none, or are taken off."""
    halves: bool = False
    """In place of the points: every other step of the clip in the median frame, and the others."""


CURRENT = Way()
WAYS = (
    CURRENT,
    replace(CURRENT, parts="signed"),
    replace(CURRENT, direction="logit"),
    replace(CURRENT, direction="less the mean"),
    Way((0.5,)),
    Way((0.5,), parts="signed"),
    Way((0.5,), "plain"),
    Way((0.5,), "plain", parts="signed"),
    Way((0.3,), "plain"),
    Way((0.3,), "plain", parts="signed"),
    Way((1.0,), "plain"),
    Way((0.0, 1.0), parts="signed"),
    Way((), parts="signed", halves=True),
    Way((0.2, 0.6), "plain", parts="signed"),
    Way((0.1, 0.3, 0.6, 0.9), "plain", parts="signed"),
)


def of_way(adapter: Adapter, clips: Tensor, classes: Tensor, way: Way) -> Tensor:
    """Frame importance, (clips, T), of any sign and sum."""
    still = median_frame(clips).expand_as(clips)
    points = [still + share * (clips - still) for share in way.points]
    if way.halves:
        grid = adapter.grid
        even = (torch.arange(grid.n_times) % 2 == 0).repeat_interleave(grid.frames_per_time)
        shown = even[None, :, None, None, None]
        points = [torch.where(shown, clips, still), torch.where(shown, still, clips)]
    gradients = [gradient(adapter, point, classes, way) for point in points]
    change = token_change(clips, adapter.patch_projection)
    parts = (change * torch.stack(gradients).mean(0)).sum(1)
    return (parts if way.parts == "signed" else parts.clamp(min=0)).sum(-1).detach()


def gradient(adapter: Adapter, point: Tensor, classes: Tensor, way: Way) -> Tensor:
    """Gradient by the tokens' embeddings at a point: (clips, width, T, P)."""
    kept = {}

    def leaf(module: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        kept["z"] = output.detach().requires_grad_()
        return kept["z"]

    with torch.enable_grad(), ExitStack() as stack:
        stack.callback(adapter.patch_projection.register_forward_hook(leaf).remove)
        if way.rules == "held":
            stack.enter_context(held(adapter.model, norm_offset=adapter.norm_offset))
        logits = adapter.predict(point.clone())
        direction = DIRECTIONS[way.direction](logits.detach(), classes)
        (result,) = torch.autograd.grad((logits * direction).sum(), kept["z"])
    return on_clips(result, len(point)).flatten(3)


def _of_class(logits: Tensor, classes: Tensor) -> Tensor:
    return F.one_hot(classes, logits.shape[1]).float()


DIRECTIONS: dict[Direction, Callable[[Tensor, Tensor], Tensor]] = {
    "odds": lambda logits, classes: class_directions(logits, classes)[1],
    "logit": _of_class,
    "less the mean": lambda logits, classes: _of_class(logits, classes) - 1 / logits.shape[1],
}


def name_of(way: Way) -> str:
    """One line for the table."""
    points = "halves of steps" if way.halves else " and ".join(f"{each:g}" for each in way.points)
    told = f"{way.rules} at {points}, {way.parts}"
    told += "" if way.direction == "odds" else f", {way.direction}"
    return told + (" (the product's)" if way == CURRENT else "")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[4201])
    parser.add_argument(
        "--models", nargs="+", default=["order", "8-frames", "static-cue", "moment"], choices=TASKS
    )
    parser.add_argument(
        "--cameras", nargs="+", default=["panning", "fast"], choices=get_args(Camera)
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = [(model, camera) for model in args.models for camera in args.cameras]
    rows: dict[str, list[float]] = {}
    for model, camera in columns:
        of_column: dict[str, list[float]] = {}
        for seed in args.seeds:
            subject = subject_of(model, seed, args.clips, camera)
            adapter, clips = subject.adapter, subject.single.pixel_values
            classes = torch.from_numpy(subject.single.labels)
            found = {name_of(way): of_way(adapter, clips, classes, way) for way in WAYS}
            product = by_gradient(adapter, clips, classes)
            own = found[name_of(CURRENT)]
            torch.testing.assert_close(own / own.sum(1, keepdim=True), product)
            found["insertion"] = by_insertion(adapter, clips, classes)
            for name, values in found.items():
                agreement = rank_agreement(values.double().numpy(), subject.shapley)
                of_column.setdefault(name, []).extend(agreement.tolist())
        for name, agreements in of_column.items():
            rows.setdefault(name, []).append(float(np.mean(agreements)))
    heads = [f"{model}, {camera}" for model, camera in columns]
    print("| gradient | " + " | ".join(heads) + " | mean |")
    print("| --- |" + " --- |" * (len(heads) + 1))
    for name, means in rows.items():
        figures = " | ".join(f"{mean:.2f}" for mean in (*means, float(np.mean(means))))
        print(f"| {name} | {figures} |")


if __name__ == "__main__":
    main()
