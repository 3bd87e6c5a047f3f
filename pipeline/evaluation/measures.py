"""What a sample of a run tells of each clip: faithfulness, time and sanity of its map.

Each function gives the values of one group for one clip. Those that perturb it ask one probe, which
remembers: what two metrics need goes through the model once. What one group needs of another (the
clip as it is, the median frame alone) is asked once, too.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluation import published
from pipeline.evaluation.faithfulness import (
    FRACTIONS,
    cam_entropy,
    drops,
    gap,
    random_drops,
    random_gap,
)
from pipeline.evaluation.methods.model_free import median_difference
from pipeline.evaluation.perturbation import FILLS, UNITS, Classifier, Fill, Probe
from pipeline.evaluation.sanity import class_sensitivity, largest_change, pearson, pixel_noise
from pipeline.evaluation.shapley import frame_shapley, rank_agreement
from pipeline.store.measured import Group
from pipeline.store.schema import Measure, StoreLayout

Float64Array = NDArray[np.float64]
Values = dict[str, Float64Array]

SHAPLEY_FILL: Fill = "median"
"""What absent frames show in the reference for time."""
NOISE_RADIUS = 0.02
"""Of each normalised pixel value, for max-sensitivity."""
N_MOVED = 3
"""Noisy copies of a clip for max-sensitivity."""
N_CLASSIFIERS = 3
"""Classifiers of noise: a clip's map may be near that of one of them by chance."""

_BY_FILL, _UNITS, _SHARES, _TIME = ("fill",), ("fill", "unit"), ("fill", "share"), ("time",)
_OF_RANDOM = "the same of random orders, which is to be taken off"

_OF_EVERY_SAMPLE = (
    Measure("run_row", (), (), "row of the run that the clip is", "int64"),
    Measure("target", (), (), "class that was asked about", "int64"),
    Measure("n_forward", (), (), "clips that went through the model for this one", "int64"),
)
_FAITHFULNESS = (
    Measure("gap", _UNITS, (len(FILLS), len(UNITS)), "insertion AUC less deletion AUC"),
    Measure("random_gap", _UNITS, (len(FILLS), len(UNITS)), _OF_RANDOM),
    *(
        Measure(name, _SHARES, (len(FILLS), len(FRACTIONS)), what)
        for name, what in (
            ("removed", "fall of the probability without the highest patches"),
            ("random_removed", _OF_RANDOM),
            ("kept", "fall of the probability with the highest patches alone"),
            ("random_kept", _OF_RANDOM),
        )
    ),
    Measure("cam_entropy", _BY_FILL, (len(FILLS),), "entropy gained with the map's core alone"),
    Measure("paper_faithfulness", _BY_FILL, (len(FILLS),), "change without the upper half"),
    Measure("paper_tau", _BY_FILL, (len(FILLS),), "Kendall's tau-b of share removed and change"),
)
MEASURES = (*_OF_EVERY_SAMPLE, *_FAITHFULNESS)
"""What is measured of each clip for faithfulness; ``fill``, ``unit`` and ``share`` are in the order
of `FILLS`, `UNITS` and `FRACTIONS`."""


def measures_of(groups: Collection[Group], run: StoreLayout) -> tuple[Measure, ...]:
    """Give what is measured of each clip of a run for some groups."""
    return (
        *_OF_EVERY_SAMPLE,
        *(_FAITHFULNESS if "faithfulness" in groups else ()),
        *(_time_measures(run) if "time" in groups else ()),
        *(_SANITY if "sanity" in groups else ()),
    )


def _time_measures(run: StoreLayout) -> tuple[Measure, ...]:
    steps = (run.n_times,)
    reference = f"Shapley value of each time step (others show: {SHAPLEY_FILL}), log-odds"
    names = {
        "shapley_agreement": "rank agreement of these two: what is above it doesn't repeat",
        "temporal_agreement": "rank agreement of T with the Shapley values",
        "change_agreement": "the same of each step's change of pixels from the median frame",
    }
    if "frame_importance" in run.optional:
        names["importance_agreement"] = "the same of the run's frame importance"
    return (
        Measure("shapley", _TIME, steps, reference),
        Measure("shapley_shifted", _TIME, steps, "the same of the clip shifted by two pixels"),
        *(Measure(name, (), (), what) for name, what in names.items()),
    )


_SANITY = (
    Measure("recomputed", (), (), "correlation of the map, computed again, with the run's"),
    Measure("class_sensitivity", (), (), "correlation with the map of the runner-up class"),
    Measure("random_classifier", (), (), "correlation with the map under classifiers of noise"),
    Measure("random_blocks", (), (), "correlation with the map of a model of noise"),
    Measure("max_sensitivity", (), (), "largest relative change of the map under small noise"),
)


def faithfulness_of_clip(
    probe: Probe, attribution: NDArray[np.floating], target: int, *, n_random: int, seed: int
) -> Values:
    """Give the values of one clip that say whether the model needs what its map marks.

    Parameters
    ----------
    attribution
        (time, y, x)
    seed
        Of the random orders, and of that of equal parts. Another for each clip: what one order has
        by chance would else be in the mean over clips, however many there are.
    """
    maps = np.asarray(attribution, np.float64).reshape(1, len(attribution), -1)
    classes = np.array([target])

    def ties() -> np.random.Generator:
        # The same for each, so that versions are the same, and asked about once.
        return np.random.default_rng(seed)

    def of_fills(
        of_fill: Callable[[Fill], object],
    ) -> Float64Array:
        return np.array([of_fill(fill) for fill in FILLS], np.float64)

    own = [drops(probe, maps, classes, fill=fill, generator=ties()) for fill in FILLS]
    chance = [
        random_drops(probe, classes, fill=fill, seed=seed, n_random=n_random) for fill in FILLS
    ]
    return {
        "gap": of_fills(
            lambda fill: [
                gap(probe, maps, classes, unit=unit, fill=fill, generator=ties())[0]
                for unit in UNITS
            ]
        ),
        "random_gap": of_fills(
            lambda fill: [
                random_gap(probe, classes, unit=unit, fill=fill, seed=seed, n_random=n_random)[0]
                for unit in UNITS
            ]
        ),
        "removed": np.stack([each.removed[:, 0] for each in own]),
        "kept": np.stack([each.kept[:, 0] for each in own]),
        "random_removed": np.stack([each.removed[:, 0] for each in chance]),
        "random_kept": np.stack([each.kept[:, 0] for each in chance]),
        "cam_entropy": of_fills(
            lambda fill: cam_entropy(probe, maps, fill=fill, generator=ties())[0]
        ),
        "paper_faithfulness": of_fills(
            lambda fill: published.faithfulness(probe, maps, classes, fill=fill, generator=ties())[
                0
            ]
        ),
        "paper_tau": of_fills(
            lambda fill: published.monotonicity(probe, maps, classes, fill=fill, generator=ties())[
                0
            ]
        ),
    }


def time_of_clip(
    probe: Probe,
    shifted: Probe,
    target: int,
    *,
    change: NDArray[np.floating],
    temporal: NDArray[np.floating],
    importance: NDArray[np.floating] | None = None,
) -> Values:
    """Give the values of one clip that say whether its profiles find the frames that matter.

    Parameters
    ----------
    probe, shifted
        Ask about the clip, and about the clip shifted by `pipeline.evaluation.shapley.SHIFT_PX`.
    change
        (time,): how far each step's pixels are from the median frame; asks no model.
    temporal, importance
        (time,): T of the run, and its frame importance if it has it.
    """
    classes = np.array([target])
    # Beyond `MAX_EXACT_STEPS` the second one is drawn anew, so that agreement isn't the draw's.
    reference = frame_shapley(probe, classes, fill=SHAPLEY_FILL, seed=0)
    again = frame_shapley(shifted, classes, fill=SHAPLEY_FILL, seed=1)

    def agreement(profile: NDArray[np.floating]) -> Float64Array:
        return np.asarray(rank_agreement(np.asarray(profile, np.float64)[None], reference)[0])

    values: Values = {
        "shapley": reference[0],
        "shapley_shifted": again[0],
        "shapley_agreement": agreement(again[0]),
        "temporal_agreement": agreement(temporal),
        "change_agreement": agreement(change),
    }
    return (
        values if importance is None else {**values, "importance_agreement": agreement(importance)}
    )


def change_profile(model: Classifier, pixel_values: Tensor) -> Float64Array:
    """Mean distance of each time step's pixels from the clip's median frame: (time,) of one clip.

    Parameters
    ----------
    pixel_values
        (1, frames, 3, height, width)
    """
    of_patches = median_difference(model, pixel_values, torch.zeros(1, dtype=torch.int64))
    return np.asarray(of_patches[0].sum(dim=-1).double().cpu().numpy())


class MapMaker(Protocol):
    """Computes maps of clips as the run did."""

    is_of_class: bool
    """Whether a map depends on the class that is explained, and so on the classifier."""

    def maps(
        self, pixel_values: Tensor, classes: NDArray[np.integer], /
    ) -> tuple[Float64Array, Float64Array]:
        """Give maps (clips, T, P) and logits (clips, classes) of clips, each for a class."""

    def with_classifier_of_noise(self, seed: int, /) -> AbstractContextManager[None]:
        """While open, the classifier is noise."""

    def with_blocks_of_noise(self) -> AbstractContextManager[None]:
        """While open, all but the embeddings is noise."""


def sanity_of_clip(
    maker: MapMaker,
    pixel_values: Tensor,
    attribution: NDArray[np.floating],
    target: int,
    *,
    seed: int,
) -> Values | None:
    """Give the values of one clip that say whether its map changes when it has to.

    A map that doesn't depend on the class is the same for the runner-up and under any classifier:
    both figures are 1, and are not computed. They are 1 as well where there is one class.

    Parameters
    ----------
    pixel_values
        (1, frames, 3, height, width), normalised.
    attribution
        (time, y, x): the run's map.
    seed
        Of the noise.

    Returns
    -------
    None if the model gives no finite answer
    """
    of_target = np.array([target])
    own, logits = maker.maps(pixel_values, of_target)
    if not np.isfinite(logits).all():
        return None
    others = np.delete(np.arange(logits.shape[1]), target)
    is_of_class = maker.is_of_class and len(others) > 0
    runner_up = others[logits[0, others].argmax()][None] if is_of_class else others[:0]
    noise = pixel_noise(pixel_values, radius=NOISE_RADIUS, n_samples=N_MOVED, seed=seed)
    # One batch: the clip once more for the runner-up, and with noise.
    versions = [*[pixel_values] * len(runner_up), *(pixel_values + each for each in noise)]
    classes = np.concatenate([runner_up, np.repeat(of_target, N_MOVED)])
    maps, _ = maker.maps(torch.cat(versions), classes)
    of_other, moved = maps[: len(runner_up)], maps[len(runner_up) :]
    of_noise = []
    for number in range(N_CLASSIFIERS if is_of_class else 0):
        with maker.with_classifier_of_noise(seed * N_CLASSIFIERS + number):
            of_noise.append(pearson(own, maker.maps(pixel_values, of_target)[0]))
    with maker.with_blocks_of_noise():
        of_blocks, _ = maker.maps(pixel_values, of_target)
    stored = np.asarray(attribution, np.float64).reshape(own.shape)
    values = {
        "recomputed": pearson(stored, own),
        "class_sensitivity": class_sensitivity(own, of_other) if is_of_class else np.ones(1),
        "random_classifier": np.mean(of_noise, axis=0) if is_of_class else np.ones(1),
        "random_blocks": pearson(own, of_blocks),
        "max_sensitivity": largest_change(own, [each[None] for each in moved]),
    }
    return {name: value[0] for name, value in values.items()}
