"""Interventions on clips: something is replaced, frozen or shuffled, and the model is asked again.

Whoever plans them says what to do to which row (`Intervention`); here they are carried out, and
each gives the probability of a class. They are done in parts of some clips each. The outcomes of a
part are kept once they are there, so that an attempt that was cut off goes on.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.clips.columns import Columns
from pipeline.clips.preprocess import Preprocessing
from pipeline.evaluation.perturbation import FILLS, Classifier, Fill, fill_frames, replace_patches
from pipeline.models.attributor import normalise
from pipeline.models.checkpoint import Checkpoint, load_adapter
from pipeline.models.geometry import Geometry
from pipeline.status import Status
from pipeline.storage.files import read_bytes, write_bytes

Action = Literal["keep", "replace", "surround", "freeze", "shuffle"]

LoadRows = Callable[[Sequence[int]], Columns]
"""Loads rows of a run, in ascending order, as `pipeline.clips.loader.ClipLoader` does."""


@dataclass(frozen=True)
class Intervention:
    """What is done to a clip, and the class that the model is asked about then."""

    row: int
    """Row of the run."""
    target: int
    """Index of the class."""
    action: Action = "keep"
    """``keep`` changes nothing; ``replace`` puts a fill in a place, ``surround`` in as many patches
    around it; ``freeze`` repeats the middle frame; ``shuffle`` draws another order of the
    frames."""
    fill: Fill | None = None
    time: tuple[int, int] = (0, 0)
    """Time steps of the model to replace, half-open."""
    y: tuple[int, int] = (0, 0)
    """Rows of patches to replace, half-open."""
    x: tuple[int, int] = (0, 0)
    """Columns of patches to replace, half-open."""
    seed: int = 0
    """Seed of ``surround`` and ``shuffle``."""


@dataclass(frozen=True)
class Outcome:
    """The model's answer after an intervention."""

    probability: float | None
    """Probability of the class that was asked about; None if the clip can't be read any more."""
    message: str = ""
    """Why the clip can't be read."""


def changed_clip(pixel_values: Tensor, intervention: Intervention, grid: Geometry) -> Tensor:
    """Apply an intervention to a clip.

    Parameters
    ----------
    pixel_values
        (1, frames, 3, height, width), normalised.

    Returns
    -------
    Same shape and dtype
    """
    n_frames = pixel_values.shape[1]
    match intervention.action:
        case "keep":
            return pixel_values
        case "freeze":
            return pixel_values[:, [n_frames // 2]].expand_as(pixel_values)
        case "shuffle":
            order = np.random.default_rng(intervention.seed).permutation(n_frames)
            if (order == np.arange(n_frames)).all():
                # With few frames, some draws leave the order as it is.
                order = np.roll(order, 1)
            return pixel_values[:, torch.from_numpy(order)]
        case "replace" | "surround":
            if intervention.fill is None:
                raise ValueError(f"fill: None, expected one of {', '.join(FILLS)} to replace with")
            where = np.zeros((grid.height, grid.width), bool)
            where[slice(*intervention.y), slice(*intervention.x)] = True
            if intervention.action == "surround":
                where = around(where, intervention.seed)
            patches = torch.zeros(1, grid.n_times, grid.height, grid.width, dtype=torch.bool)
            patches[:, slice(*intervention.time)] = torch.from_numpy(where)
            flat = patches.flatten(2).to(pixel_values.device)
            filled = fill_frames(pixel_values, intervention.fill)
            return replace_patches(pixel_values, filled, flat, grid)


def around(place: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """Choose as many patches as a place has, outside of it and side by side around its centre.

    They are those that follow a direction, which the seed draws, as a hand of a clock goes.

    Parameters
    ----------
    place
        (y, x) patches, at most half of them.

    Returns
    -------
    (y, x)
    """
    centre = np.argwhere(place).mean(axis=0)
    outside = np.argwhere(~place)
    y, x = (outside - centre).T
    start = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    chosen = outside[np.argsort((np.arctan2(y, x) - start) % (2 * np.pi), kind="stable")]
    surrounding = np.zeros_like(place)
    surrounding[tuple(chosen[: place.sum()].T)] = True
    return surrounding


class Intervener:
    """Carries out interventions on the clips of a run.

    Parameters
    ----------
    device
        ``cpu`` or ``cuda``, where the model is.
    batch_size
        Changed clips in one forward pass.
    """

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        load_rows: LoadRows,
        *,
        device: str,
        batch_size: int,
    ) -> None:
        self._model, self._preprocessing = model, preprocessing
        self._load_rows = load_rows
        self._device, self._batch_size = torch.device(device), batch_size

    def __call__(self, interventions: Sequence[Intervention]) -> list[Outcome]:
        """Carry out interventions, ordered by row, in float32; each clip is decoded once."""
        rows = [row for row, _ in groupby(interventions, lambda one: one.row)]
        loaded = self._load_rows(rows)
        outcomes: list[Outcome] = []
        for at, (_, of_row) in enumerate(groupby(interventions, lambda one: one.row)):
            wanted = list(of_row)
            if loaded["status"][at] != Status.OK:
                reason = f"{Status(loaded['status'][at]).label}: {loaded['message'][at]}"
                outcomes += [Outcome(None, reason)] * len(wanted)
                continue
            probabilities = self._ask(loaded["frames"][at], wanted)
            outcomes += [Outcome(float(value)) for value in probabilities]
        return outcomes

    @torch.inference_mode()
    def _ask(
        self, frames: NDArray[np.uint8], interventions: Sequence[Intervention]
    ) -> NDArray[np.float64]:
        on_device = torch.tensor(frames[None], device=self._device)
        clip = normalise(on_device, self._preprocessing, torch.float32)
        answers = []
        for start in range(0, len(interventions), self._batch_size):
            batch = interventions[start : start + self._batch_size]
            changed = [changed_clip(clip, one, self._model.grid) for one in batch]
            probabilities = self._model.predict(torch.cat(changed)).double().softmax(dim=-1)
            targets = torch.tensor([one.target for one in batch], device=self._device)
            answers.append(probabilities.gather(1, targets[:, None])[:, 0].cpu())
        return torch.cat(answers).numpy()


@dataclass(frozen=True)
class InterventionStage:
    """What a process needs to carry out interventions on a run's clips; the model isn't loaded."""

    checkpoint: Checkpoint
    load_rows: LoadRows
    device: str
    """``cpu`` or ``cuda``."""
    batch_size: int
    n_threads: int
    """Torch's threads, on a CPU."""

    def start(self) -> Intervener:
        """Load the model; raises as `load_adapter` does."""
        if self.device == "cpu":
            torch.set_num_threads(self.n_threads)
        return Intervener(
            load_adapter(self.checkpoint, device=self.device),
            self.checkpoint.preprocessing,
            self.load_rows,
            device=self.device,
            batch_size=self.batch_size,
        )


def in_parts(interventions: Sequence[Intervention], clips_per_part: int) -> list[range]:
    """Cut interventions, ordered by row, into ranges of some clips each."""
    starts = [0]
    starts += [
        at
        for at in range(1, len(interventions))
        if interventions[at].row != interventions[at - 1].row
    ]
    starts = starts[::clips_per_part]
    return [
        range(start, stop)
        for start, stop in zip(starts, [*starts[1:], len(interventions)], strict=True)
        if stop > start
    ]


@dataclass(frozen=True)
class OutcomeFolder:
    """Keeps the outcomes of a plan's parts as they are done, each in an object of its own.

    Outcomes of another plan or model lie in another folder, and are never read.
    """

    url: str

    @classmethod
    def of_plan(
        cls, url: str, interventions: Sequence[Intervention], identity: str
    ) -> "OutcomeFolder":
        """Name the folder of a plan below ``url``; ``identity`` is that of the run."""
        plan = json.dumps([identity, [asdict(one) for one in interventions]], sort_keys=True)
        return cls(f"{url}/{hashlib.sha256(plan.encode()).hexdigest()[:32]}")

    def read(self, part: range) -> list[Outcome] | None:
        """Outcomes of a part; None if it isn't done, or its object is damaged."""
        try:
            values = json.loads(read_bytes(self._url(part)))
            outcomes = [Outcome(**value) for value in values]
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return outcomes if len(outcomes) == len(part) else None

    def write(self, part: range, outcomes: Sequence[Outcome]) -> None:
        """Keep the outcomes of a part."""
        write_bytes(self._url(part), json.dumps([asdict(one) for one in outcomes]).encode())

    def _url(self, part: range) -> str:
        return f"{self.url}/{part.start}-{part.stop}.json"


def carry_out(
    stage: InterventionStage,
    interventions: Sequence[Intervention],
    parts: Sequence[range],
    folder: OutcomeFolder,
) -> Iterator[range]:
    """Carry out parts one after another, in this process; gives each once its outcomes are kept."""
    if not parts:
        return
    intervener = stage.start()
    for part in parts:
        folder.write(part, intervener(interventions[part.start : part.stop]))
        yield part
