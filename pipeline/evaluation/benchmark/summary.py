"""From values per clip to means, intervals and the choice of the default.

A figure is the mean over models of the mean over each model's clips. Its interval is a bootstrap
that is clustered: seeds are drawn, then clips of each seed, the same for every method and model, so
that differences between methods are of the same clips. Models are those that they are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.benchmark.cells import Cell
from pipeline.evaluation.benchmark.metrics import DECIDING, GUARDING
from pipeline.evaluation.methods.explainer import METHODS

Float64Array = NDArray[np.float64]

N_BOOTSTRAP = 2000
OLD_DEFAULT = "staa"
MIN_TWO_ACTOR_SHARE = 0.75
MAX_RANDOM_CLASSIFIER = 0.5
ONE_PASS = ("nothing", "attention")
"""What methods of at most 1.1 forward passes need. At full size `tests/benchmarks/overhead.py`
measures that evidence is one of them; in a model as small as these, every small operation counts.
"""


@dataclass(frozen=True)
class Figure:
    """Mean of a metric of a method."""

    mean: float
    low: float
    high: float
    """95 %."""
    n_clips: int
    """Clips that the mean is taken over."""
    n_undefined: int
    """Clips that were measured and for which the metric is undefined."""
    of_models: Mapping[str, float]


@dataclass(frozen=True)
class Candidate:
    """A method that may become the default."""

    method: str
    score: Figure
    """Mean of `DECIDING`."""
    gain: Figure
    """Score minus the old default's score on the same clips."""
    passes_guards: bool

    @property
    def is_better(self) -> bool:
        """Whether the gain is more than chance."""
        return self.gain.low > 0


@dataclass(frozen=True)
class Decision:
    """What the rule says; see `decide`."""

    candidates: tuple[Candidate, ...]
    """The best first."""
    winner: str


class Draws:
    """Seeds and clips of each bootstrap sample, the same for every metric and method."""

    def __init__(self, n_seeds: int, n_clips: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.seeds = generator.integers(n_seeds, size=(N_BOOTSTRAP, n_seeds))
        self._place = generator.random((N_BOOTSTRAP, n_seeds, n_clips))

    def means(self, values: Float64Array) -> Float64Array:
        """Mean of each sample: (seeds, clips) to (samples,); NaN where nothing is defined.

        Clips of a seed that weren't measured are NaN at the end of its row.
        """
        measured = values.shape[1]
        clip = (self._place[:, :, :measured] * measured).astype(int)
        drawn = values[self.seeds[:, :, None], clip]
        defined = np.isfinite(drawn)
        counts = defined.sum(axis=(1, 2))
        sums = np.where(defined, drawn, 0.0).sum(axis=(1, 2))
        result: Float64Array = np.full(len(sums), np.nan)
        np.divide(sums, counts, out=result, where=counts > 0)
        return result


def figure(of_models: Mapping[str, Float64Array], draws: Draws) -> Figure | None:
    """Average over clips and then over models; None where no clip has an answer.

    Parameters
    ----------
    of_models
        (seeds, clips) of each model; NaN where undefined.
    """
    defined = {name: values for name, values in of_models.items() if np.isfinite(values).any()}
    if not defined:
        return None
    # Infinity is left out of the bootstrap and of the count, too.
    means = {name: float(values[np.isfinite(values)].mean()) for name, values in defined.items()}
    samples = np.mean([draws.means(values) for values in defined.values()], axis=0)
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    n_clips = sum(int(np.isfinite(values).sum()) for values in of_models.values())
    return Figure(
        mean=float(np.mean(list(means.values()))),
        low=float(low),
        high=float(high),
        n_clips=n_clips,
        n_undefined=sum(values.size for values in of_models.values()) - n_clips,
        of_models=means,
    )


@dataclass(frozen=True, eq=False)
class Results:
    """All cells of a benchmark."""

    cells: Mapping[tuple[str, int, str], Cell]
    """By model, seed and method."""
    models: Sequence[str]
    seeds: Sequence[int]
    methods: Sequence[str]
    n_clips: int

    def values(self, method: str, metric: str) -> dict[str, Float64Array]:
        """Values (seeds, clips) for each model that the method can explain."""
        result = {}
        for model in self.models:
            cells = [self.cells[model, seed, method] for seed in self.seeds]
            rows = [cell.values[metric] for cell in cells if metric in cell.values]
            if len(rows) == len(cells):
                result[model] = np.stack(rows)
        return result

    def figures(self, metrics: Iterable[str]) -> dict[str, dict[str, Figure | None]]:
        """Figure of each method, then of each metric."""
        draws, names = self.draws(), tuple(metrics)
        return {
            method: {metric: figure(self.values(method, metric), draws) for metric in names}
            for method in self.methods
        }

    def draws(self) -> Draws:
        """Bootstrap samples of these seeds and clips."""
        return Draws(len(self.seeds), self.n_clips)

    def cost(self, method: str) -> float | None:
        """Time over that of a forward pass: the median over models and seeds."""
        costs = [self.cells[model, seed, method].cost for model, seed in self._subjects()]
        ratios = [cost.ratio for cost in costs if cost is not None]
        return float(np.median(ratios)) if ratios else None

    def seconds(self, method: str) -> float | None:
        """CPU time of a clip, s: the median over models and seeds."""
        costs = [self.cells[model, seed, method].cost for model, seed in self._subjects()]
        seconds = [cost.seconds for cost in costs if cost is not None]
        return float(np.median(seconds)) if seconds else None

    def n_forward(self, method: str) -> float | None:
        """Forward passes counted for a clip; the largest count of any model."""
        costs = [self.cells[model, seed, method].cost for model, seed in self._subjects()]
        return max((cost.n_forward for cost in costs if cost is not None), default=None)

    def reasons(self) -> dict[str, dict[str, str]]:
        """Why a method can't explain a model, by method and model."""
        result: dict[str, dict[str, str]] = {}
        for (model, _, method), cell in self.cells.items():
            if cell.reason:
                result.setdefault(method, {})[model] = cell.reason
        return result

    def _subjects(self) -> list[tuple[str, int]]:
        return [(model, seed) for model in self.models for seed in self.seeds]


def decide(results: Results) -> Decision | None:
    """Choose the default by the rule that was fixed before anything was run.

    Methods of at most 1.1 forward passes that explain every model are ranked by the mean of
    `DECIDING`. One is out whose two-actor share is at most 0.75, or whose correlation with the map
    of a random classifier is 0.5 or more. The best of the others becomes the default if its gain
    over the old one, on the same clips, is above 0 in 95 % of bootstrap samples; else the old one
    stays.

    Returns
    -------
    None if the old default, or a metric of the rule, wasn't measured
    """
    needed = (*DECIDING, *GUARDING)
    if OLD_DEFAULT not in results.methods:
        return None
    if len(results.values(OLD_DEFAULT, DECIDING[0])) < len(results.models):
        return None
    draws = results.draws()
    old = _scores(results, OLD_DEFAULT)
    if old is None:
        return None
    candidates = []
    for method in results.methods:
        if METHODS[method].needs not in ONE_PASS:
            continue
        own = _scores(results, method)
        figures = [figure(results.values(method, metric), draws) for metric in needed]
        if own is None or any(each is None for each in figures):
            continue
        score = figure(own, draws)
        n_clips = {name: min(own[name].shape[1], old[name].shape[1]) for name in own}
        gain = figure(
            {name: own[name][:, :n] - old[name][:, :n] for name, n in n_clips.items()}, draws
        )
        share, correlation = figures[2:]
        assert score is not None
        assert gain is not None
        assert share is not None
        assert correlation is not None
        passes = share.mean > MIN_TWO_ACTOR_SHARE and correlation.mean < MAX_RANDOM_CLASSIFIER
        candidates.append(Candidate(method, score, gain, passes))
    if not candidates:
        return None
    candidates.sort(key=lambda each: -each.score.mean)
    best = next((each for each in candidates if each.passes_guards), None)
    winner = best.method if best is not None and best.is_better else OLD_DEFAULT
    return Decision(tuple(candidates), winner)


def _scores(results: Results, method: str) -> dict[str, Float64Array] | None:
    """Mean of `DECIDING` of each clip pair; None where a model lacks one of them."""
    of_each = [results.values(method, metric) for metric in DECIDING]
    if any(len(values) < len(results.models) for values in of_each):
        return None
    # Clip i of one actor is paired with clip i of two: both have the same seed and number.
    return {
        model: np.mean([values[model] for values in of_each], axis=0) for model in results.models
    }
