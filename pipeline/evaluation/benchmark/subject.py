"""What is explained: a model with clips of one actor and of two, and a method's maps of them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluation.methods.explainer import explain
from pipeline.evaluation.perturbation import Probe
from pipeline.evaluation.sanity import cascade_depths, randomised, stages
from pipeline.evaluation.shapley import frame_shapley, repeatability

Float64Array = NDArray[np.float64]

_BATCH = 16
"""Clips in a forward pass."""
_N_MOVED = 3
"""Noisy copies of a clip for max-sensitivity."""
_RADIUS = 0.02
_N_CLASSIFIERS = 3
"""Classifiers of noise: a clip's map may be near that of one of them by chance."""
_N_DEPTHS = 4
"""Models of a cascade: the classifier of noise, and up to three blocks. The first and the last are
models that other metrics ask for, so that a cascade explains each clip twice more at most."""


@dataclass(frozen=True, eq=False)
class Scenes:
    """Clips, and where in them their classes are."""

    pixel_values: Tensor
    """(clips, frames, 3, height, width), normalised."""
    labels: NDArray[np.int64]
    """(clips,)"""
    covered: NDArray[np.float32]
    """(clips, T, y, x): share of each patch that the class's actor covers."""
    rivals: NDArray[np.int64]
    """(clips,): class of the second actor, or -1."""
    rival_covered: NDArray[np.float32]
    """(clips, T, y, x)"""
    probe: Probe
    seed: int = 0
    """Seed of the random orders that figures are compared with."""
    black: tuple[float, ...] = (0.0, 0.0, 0.0)
    """What a black pixel was normalised to, in each channel."""

    @property
    def n_clips(self) -> int:
        """How many there are."""
        return len(self.labels)

    def first(self, n_clips: int) -> "Scenes":
        """Give the first clips; what their probe knows is shared."""
        return Scenes(
            self.pixel_values[:n_clips],
            self.labels[:n_clips],
            self.covered[:n_clips],
            self.rivals[:n_clips],
            self.rival_covered[:n_clips],
            self.probe.first(n_clips),
            self.seed,
            self.black,
        )


@dataclass(frozen=True, eq=False)
class Splices:
    """Clips into which a run of steps from a clip of another class was put."""

    pixel_values: Tensor
    """(clips, frames, 3, height, width), normalised."""
    labels: NDArray[np.int64]
    """(clips,): the class that was put in."""
    planted: NDArray[np.bool_]
    """(clips, T): the steps that show it."""

    def first(self, n_clips: int) -> "Splices":
        """Give the first clips."""
        return Splices(self.pixel_values[:n_clips], self.labels[:n_clips], self.planted[:n_clips])


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, and the clips that it is explained on."""

    name: str
    adapter: Any
    """A `pipeline.models.adapter.Adapter`."""
    single: Scenes
    """Clips of one actor."""
    double: Scenes | None
    """Clips of two actors of two classes; None where no clip can have two."""
    seed: int
    whole: "Subject | None" = None
    """The subject of whose clips this one has the first."""
    spliced: Splices | None = None
    """Splices of its clips; None where a frame alone doesn't show a class."""

    def first(self, n_clips: int) -> "Subject":
        """Give the same model with the first clips."""
        if n_clips >= self.single.n_clips:
            return self
        return Subject(
            self.name,
            self.adapter,
            self.single.first(n_clips),
            self.double and self.double.first(n_clips),
            self.seed,
            self,
            self.spliced and self.spliced.first(n_clips),
        )

    @cached_property
    def shapley(self) -> Float64Array:
        """Shapley value of each time step of the clips of one actor: (clips, T)."""
        if self.whole is not None:
            return self.whole.shapley[: self.single.n_clips]
        return frame_shapley(self.single.probe, self.single.labels, seed=self.seed)

    @cached_property
    def shapley_repeatability(self) -> Float64Array:
        """How far that reference agrees with itself on clips shifted by two pixels: (clips,)."""
        scenes = self.single
        if self.whole is not None:
            return self.whole.shapley_repeatability[: scenes.n_clips]
        return repeatability(
            self.adapter, scenes.pixel_values, scenes.labels, self.shapley, seed=self.seed
        )


@dataclass(frozen=True)
class Cost:
    """What explaining a clip costs."""

    seconds: float
    """CPU time of a clip, s."""
    forward_seconds: float
    """CPU time of a plain forward pass of a clip, measured beside it, s."""
    n_forward: float
    """Forward passes of a clip that were counted; a backward pass is in the time alone."""

    @property
    def ratio(self) -> float:
        """Time over that of a plain forward pass."""
        return self.seconds / self.forward_seconds


@dataclass(eq=False)
class Explained:
    """Maps of one method on a subject; each set is made when a metric first asks for it."""

    subject: Subject
    method: str
    _costs: list[Cost] = field(default_factory=list)
    _of_noise: dict[tuple[int, int], Float64Array] = field(default_factory=dict)

    @cached_property
    def single(self) -> Float64Array:
        """Maps of each clip's label: (clips, T, P)."""
        scenes = self.subject.single
        pixels, labels = scenes.pixel_values, scenes.labels
        adapter = self.subject.adapter
        with torch.inference_mode():
            # Work that a process does only once isn't counted.
            adapter.predict(pixels[:1])
            before = _cpu_seconds(lambda: _predict(adapter, pixels))
        with counted_passes(adapter) as n_seen:
            started = time.process_time()
            maps = self._maps(pixels, labels)
            seconds = time.process_time() - started
        with torch.inference_mode():
            after = _cpu_seconds(lambda: _predict(adapter, pixels))
        n_clips = scenes.n_clips
        forward = min(before, after) / n_clips
        self._costs.append(Cost(seconds / n_clips, forward, n_seen[0] / n_clips))
        return maps

    @property
    def cost(self) -> Cost:
        """What `single` took."""
        if not self._costs:
            _ = self.single
        return self._costs[0]

    @cached_property
    def double(self) -> Float64Array:
        """Maps of clips of two actors: (2 * clips, T, P), of each label, then of each rival."""
        scenes = self.subject.double
        assert scenes is not None
        of_both = [self._maps(scenes.pixel_values, of) for of in (scenes.labels, scenes.rivals)]
        return np.concatenate(of_both)

    @cached_property
    def spliced(self) -> Float64Array:
        """Maps of the class that was put into each clip of the splices: (clips, T, P)."""
        splices = self.subject.spliced
        assert splices is not None
        return self._maps(splices.pixel_values, splices.labels)

    @cached_property
    def of_random_classifiers(self) -> list[Float64Array]:
        """As `single`, of the model with noise for a classifier, of three."""
        return [self._randomised(1, number) for number in range(_N_CLASSIFIERS)]

    @cached_property
    def of_random_blocks(self) -> Float64Array:
        """As `single`, of the model with noise for all but its embeddings."""
        return self._randomised(len(stages(self.subject.adapter.model)) - 1, 0)

    @cached_property
    def of_cascade(self) -> list[Float64Array]:
        """As `single`, of the model as it becomes noise from the classifier down to its blocks."""
        model = self.subject.adapter.model
        return [self._randomised(depth, 0) for depth in cascade_depths(model, _N_DEPTHS)]

    @cached_property
    def moved(self) -> list[Float64Array]:
        """As `single`, of clips with noise of at most 0.02 a value."""
        scenes = self.subject.single
        generator = torch.Generator().manual_seed(self.subject.seed)
        result = []
        for _ in range(_N_MOVED):
            noise = (2 * torch.rand(scenes.pixel_values.shape, generator=generator) - 1) * _RADIUS
            result.append(self._maps(scenes.pixel_values + noise, scenes.labels))
        return result

    def _randomised(self, n_stages: int, number: int) -> Float64Array:
        if (n_stages, number) not in self._of_noise:
            scenes, seed = self.subject.single, 1000 * self.subject.seed + number
            with randomised(self.subject.adapter.model, seed, n_stages=n_stages):
                self._of_noise[n_stages, number] = self._maps(scenes.pixel_values, scenes.labels)
        return self._of_noise[n_stages, number]

    def _maps(self, pixel_values: Tensor, classes: NDArray[np.int64]) -> Float64Array:
        targets = torch.from_numpy(classes)
        parts = [
            explain(self.method, self.subject.adapter, some, of_some)
            for some, of_some in zip(
                torch.split(pixel_values, _BATCH), torch.split(targets, _BATCH), strict=True
            )
        ]
        return torch.cat(parts).double().numpy()


@contextmanager
def counted_passes(adapter: Any) -> Iterator[list[int]]:
    """While open, count clips that go through the model: a list of one number."""
    seen = [0]

    def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[0] += len(kwargs[adapter.input_name])

    handle = adapter.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def _predict(adapter: Any, pixel_values: Tensor) -> None:
    for some in torch.split(pixel_values, _BATCH):
        adapter.predict(some)


def _cpu_seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
