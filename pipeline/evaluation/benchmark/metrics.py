"""The registry of metrics: what each measures, of which clips, and whether it stands for quality.

A metric is one function to a value per clip, and one line here. Most look at maps alone, and so can
be tried on truths that are corrupted (`flags`): the leaderboard marks those that rank a corrupted
truth above the truth.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.evaluation import complexity, faithfulness, localisation, published, sanity, transport
from pipeline.evaluation.benchmark.subject import Explained, Scenes
from pipeline.evaluation.metric_checks import MetricCheck, check_metric
from pipeline.evaluation.perturbation import FILLS, Fill, Unit
from pipeline.evaluation.shapley import rank_agreement
from pipeline.evaluation.timing import moment_found, planted_excess

Float64Array = NDArray[np.float64]
OfMaps = Callable[[Scenes, Float64Array], Float64Array]
"""From clips and maps, (clips, T, P) of each label or (2 * clips, T, P) of each label and then of
each rival, to a value per clip."""
Group = Literal["localisation", "faithfulness", "class", "sanity", "time", "complexity", "paper"]


@dataclass(frozen=True)
class Metric:
    """A metric and what is known of it."""

    group: Group
    better: Literal["higher", "lower"]
    what: str
    """On one line, for the tables."""
    of: Callable[[Explained], Float64Array]
    """A value per clip, (clips,); NaN where it is undefined."""
    of_maps: OfMaps | None = None
    """The same of maps alone, where that is all it looks at."""
    on: Literal["single", "double"] = "single"
    """Clips of one actor, or of two."""
    is_quality: bool = True
    """Whether a better value stands for a better map; other metrics are only reported."""


def _of_maps(
    group: Group,
    better: Literal["higher", "lower"],
    what: str,
    of_maps: OfMaps,
    *,
    on: Literal["single", "double"] = "single",
    is_quality: bool = True,
) -> Metric:
    def of(explained: Explained) -> Float64Array:
        scenes = explained.subject.single if on == "single" else explained.subject.double
        if scenes is None:
            return _undefined(explained)
        return of_maps(scenes, getattr(explained, on))

    return Metric(group, better, what, of, of_maps, on, is_quality)


def _undefined(explained: Explained) -> Float64Array:
    return np.full(explained.subject.single.n_clips, np.nan)


def _order(score: Callable[..., Float64Array], scenes: Scenes, maps: Float64Array) -> Float64Array:
    truth = scenes.covered >= localisation.COVERED
    return score(maps.reshape(truth.shape), truth)


def _mass(scenes: Scenes, maps: Float64Array) -> Float64Array:
    return localisation.relevance_mass(
        np.maximum(maps, 0).reshape(scenes.covered.shape), scenes.covered
    )


def _emd_space(scenes: Scenes, maps: Float64Array) -> Float64Array:
    known = np.ones(scenes.covered.shape[:2], np.bool_)
    positive = np.maximum(maps, 0).reshape(scenes.covered.shape)
    return transport.emd_space(positive, scenes.covered, known)


def _gap(unit: Unit, scenes: Scenes, maps: Float64Array) -> Float64Array:
    def of_fill(fill: Fill) -> Float64Array:
        probe, labels, ties = scenes.probe, scenes.labels, _ties(scenes)
        own = faithfulness.gap(probe, maps, labels, unit=unit, fill=fill, generator=ties)
        chance = faithfulness.random_gap(probe, labels, unit=unit, fill=fill, seed=scenes.seed)
        return np.asarray(own - chance)

    return _over_fills(of_fill)


def _drop(
    which: Literal["removed", "kept"], share: float, scenes: Scenes, maps: Float64Array
) -> Float64Array:
    def of_fill(fill: Fill) -> Float64Array:
        probe, labels, ties = scenes.probe, scenes.labels, _ties(scenes)
        own = faithfulness.drops(probe, maps, labels, fill=fill, generator=ties, fractions=(share,))
        chance = faithfulness.random_drops(
            probe, labels, fill=fill, seed=scenes.seed, fractions=(share,)
        )
        difference: Float64Array = getattr(own, which)[0] - getattr(chance, which)[0]
        return difference

    return _over_fills(of_fill)


def _contrastive(scenes: Scenes, maps: Float64Array) -> Float64Array:
    """Mean over both classes of a clip, so that a map that is blind to the class has 0 exactly."""
    of_label, of_rival = np.split(maps, 2)

    def of_fill(fill: Fill) -> Float64Array:
        drops = [
            faithfulness.contrastive_drop(
                scenes.probe, values, one, other, fill=fill, generator=_ties(scenes)
            )
            for values, one, other in (
                (of_label, scenes.labels, scenes.rivals),
                (of_rival, scenes.rivals, scenes.labels),
            )
        ]
        return np.asarray(np.mean(drops, axis=0))

    return _over_fills(of_fill)


def _two_actors(scenes: Scenes, maps: Float64Array) -> Float64Array:
    """Share that lies on the right actor, of all that lies on the two; mean over both classes."""
    shares = []
    actors = (scenes.covered, scenes.rival_covered)
    for values, right, wrong in zip(np.split(maps, 2), actors, actors[::-1], strict=True):
        positive = np.maximum(values, 0).reshape(right.shape)
        on_right, on_wrong = ((positive * mask).sum(axis=(1, 2, 3)) for mask in (right, wrong))
        total = on_right + on_wrong
        share = np.full(len(total), np.nan)
        np.divide(on_right, total, out=share, where=total > 0)
        # A map with nothing on either actor can't tell them apart.
        shares.append(np.where(total > 0, share, 0.5))
    return np.asarray(np.mean(shares, axis=0))


def _cam_entropy(scenes: Scenes, maps: Float64Array) -> Float64Array:
    def of_fill(fill: Fill) -> Float64Array:
        positive = np.maximum(maps, 0)
        return faithfulness.cam_entropy(scenes.probe, positive, fill=fill, generator=_ties(scenes))

    return _over_fills(of_fill)


def _published(
    formula: Callable[..., Float64Array], scenes: Scenes, maps: Float64Array
) -> Float64Array:
    return _over_fills(
        lambda fill: formula(scenes.probe, maps, scenes.labels, fill=fill, generator=_ties(scenes))
    )


def _over_fills(of_fill: Callable[[Fill], Float64Array]) -> Float64Array:
    """Average over three fills, so that no single fill decides."""
    return np.asarray(np.mean([of_fill(fill) for fill in FILLS], axis=0))


def _ties(scenes: Scenes) -> np.random.Generator:
    return np.random.default_rng(scenes.seed)


def _class_sensitivity(explained: Explained) -> Float64Array:
    if explained.subject.double is None:
        return _undefined(explained)
    return sanity.class_sensitivity(*np.split(explained.double, 2))


def _random_classifier(explained: Explained) -> Float64Array:
    return _mean_correlation(explained.single, explained.of_random_classifiers)


def _cascade(explained: Explained) -> Float64Array:
    return _mean_correlation(explained.single, explained.of_cascade)


def _mean_correlation(true: Float64Array, others: Sequence[Float64Array]) -> Float64Array:
    of_each = [sanity.pearson(true, maps) for maps in others]
    return np.asarray(np.mean(of_each, axis=0))


def _max_sensitivity(explained: Explained) -> Float64Array:
    return sanity.largest_change(explained.single, explained.moved)


def _shapley(explained: Explained) -> Float64Array:
    return rank_agreement(_of_times(explained.single), explained.subject.shapley)


def _moment(explained: Explained) -> Float64Array:
    shows = explained.subject.single.covered.any(axis=(2, 3))
    # An action's window is no truth: only a class that shows once is.
    planted = shows & (shows.sum(axis=1, keepdims=True) == 1)
    return moment_found(_of_times(explained.single), planted)


def _splice(explained: Explained) -> Float64Array:
    splices = explained.subject.spliced
    if splices is None:
        return _undefined(explained)
    return planted_excess(_of_times(explained.spliced), splices.planted)


def _of_times(maps: Float64Array) -> Float64Array:
    """Profile over time of maps (clips, T, P), in which what speaks against counts as none."""
    return np.asarray(np.maximum(maps, 0).sum(axis=2))


def _legacy_faithfulness(explained: Explained) -> Float64Array:
    clean = explained.subject.single.probe.clean_logits()
    return published.legacy_faithfulness(clean, _legacy_logits(explained, published.HALF))


def _legacy_tau(explained: Explained) -> Float64Array:
    masked = [_legacy_logits(explained, share) for share in published.SHARES]
    clean = explained.subject.single.probe.clean_logits()
    return published.legacy_monotonicity(clean, np.stack(masked))


def _legacy_logits(explained: Explained, share: float) -> Float64Array:
    """Logits of clips that are masked as the authors' code does: (clips, classes)."""
    scenes = explained.subject.single
    frames = scenes.pixel_values.permute(0, 1, 3, 4, 2).numpy()
    masked = [
        published.legacy_masked(clip, attention, share, scenes.black)
        for clip, attention in zip(frames, explained.single, strict=True)
    ]
    pixels = torch.from_numpy(np.stack(masked)).permute(0, 1, 4, 2, 3)
    with torch.inference_mode():
        logits: Float64Array = explained.subject.adapter.predict(pixels).double().numpy()
    return logits


_SHARES = (0.02, 0.05, 0.1, 0.2)

METRICS: dict[str, Metric] = {
    "AP": _of_maps(
        "localisation",
        "higher",
        "average precision of the patches' order, on those that the actor covers",
        partial(_order, localisation.average_precision),
    ),
    "AUROC": _of_maps(
        "localisation",
        "higher",
        "area under the ROC curve of the same",
        partial(_order, localisation.auroc),
    ),
    "rank": _of_maps(
        "localisation",
        "higher",
        "share of the actor's patches among as many highest ones",
        partial(_order, localisation.relevance_rank),
    ),
    "pointing": _of_maps(
        "localisation",
        "higher",
        "whether the highest patch is the actor's",
        partial(_order, localisation.pointing),
    ),
    "mass": _of_maps("localisation", "higher", "share of the map on the actor", _mass),
    "EMD space": _of_maps(
        "localisation",
        "higher",
        "1 - earth mover's distance to the actor, frame by frame",
        _emd_space,
    ),
    **{
        f"gap {unit}": _of_maps(
            "faithfulness",
            "higher",
            f"insertion less deletion AUC over {unit}, less that of random orders",
            partial(_gap, unit),
        )
        for unit in ("patches", "tubes", "frames")
    },
    **{
        f"removed {share:.0%}": _of_maps(
            "faithfulness",
            "higher",
            f"fall of the probability without the highest {share:.0%}, less that of random orders",
            partial(_drop, "removed", share),
        )
        for share in _SHARES
    },
    **{
        f"kept {share:.0%}": _of_maps(
            "faithfulness",
            "lower",
            f"fall of the probability with the highest {share:.0%} alone, less random orders'",
            partial(_drop, "kept", share),
        )
        for share in _SHARES
    },
    "contrastive drop": _of_maps(
        "class",
        "higher",
        "fall of logit(class) - logit(other) without the highest 5 % of the class's map; a blind "
        "map has 0",
        _contrastive,
        on="double",
    ),
    "two-actor share": _of_maps(
        "class",
        "higher",
        "share on the right one of what lies on two actors; a blind map has 0.5",
        _two_actors,
        on="double",
    ),
    "class sensitivity": Metric(
        "class", "lower", "correlation of the maps of two classes", _class_sensitivity, on="double"
    ),
    "random classifier": Metric(
        "sanity",
        "lower",
        "correlation with the map under a classifier of noise, a mean over three",
        _random_classifier,
    ),
    "random blocks": Metric(
        "sanity",
        "lower",
        "correlation with the map of a model of noise behind its embeddings",
        lambda explained: sanity.pearson(explained.single, explained.of_random_blocks),
    ),
    "cascade": Metric(
        "sanity",
        "lower",
        "mean correlation with the map as the model becomes noise from the output on: the "
        "classifier, then one block more each time (Adebayo et al. 2018)",
        _cascade,
    ),
    "max-sensitivity": Metric(
        "sanity",
        "lower",
        "largest relative change of the map under noise of 0.02",
        _max_sensitivity,
    ),
    "frames' Shapley": Metric(
        "time",
        "higher",
        "rank agreement of the map's time profile with the frames' Shapley values (median frame)",
        _shapley,
    ),
    "Shapley's own": Metric(
        "time",
        "higher",
        "rank agreement of that reference with itself, shifted by two pixels: what is above it "
        "doesn't repeat",
        lambda explained: explained.subject.shapley_repeatability,
        is_quality=False,
    ),
    "moment found": Metric(
        "time",
        "higher",
        "whether the most important step is the one that alone shows the class",
        _moment,
    ),
    "splice excess": Metric(
        "time",
        "higher",
        "share of the importance for another class on the steps that were put in from its clip, "
        "less the share of steps that they are",
        _splice,
    ),
    "entropy": _of_maps(
        "complexity",
        "lower",
        "Shannon entropy of the map, nats",
        lambda scenes, maps: complexity.entropy(maps),
        is_quality=False,
    ),
    "Gini": _of_maps(
        "complexity",
        "higher",
        "Gini index of the map",
        lambda scenes, maps: complexity.gini(maps),
        is_quality=False,
    ),
    "CAM entropy": _of_maps(
        "complexity",
        "lower",
        "entropy that the prediction gains when the core of the map alone is kept",
        _cam_entropy,
        is_quality=False,
    ),
    "paper's faithfulness": _of_maps(
        "paper",
        "higher",
        "change of the probability without the upper half of the patches",
        partial(_published, published.faithfulness),
        is_quality=False,
    ),
    "paper's tau": _of_maps(
        "paper",
        "higher",
        "Kendall's tau-b between the share removed and that change",
        partial(_published, published.monotonicity),
        is_quality=False,
    ),
    "legacy faithfulness": Metric(
        "paper",
        "higher",
        "1 - mean change of all logits with bytes at the start of the clip set to 0, as the "
        "authors' code has it",
        _legacy_faithfulness,
        is_quality=False,
    ),
    "legacy tau": Metric(
        "paper",
        "higher",
        "Kendall's tau between the share of these bytes and that change",
        _legacy_tau,
        is_quality=False,
    ),
}
"""By the name that tables show."""

DECIDING = ("AP", "contrastive drop")
"""Metrics whose mean ranks methods when the default is chosen."""
GUARDING = ("two-actor share", "random classifier")
"""Metrics that can keep a method from being chosen."""


def chosen_metrics(names: Iterable[str]) -> tuple[str, ...]:
    """Metrics of some names; ``all``, a group's name, and ``decision`` stand for several.

    Raises
    ------
    ConfigError
        If there is no such metric or group.
    """
    groups: dict[str, tuple[str, ...]] = {"all": tuple(METRICS), "decision": DECIDING + GUARDING}
    for name, metric in METRICS.items():
        groups[metric.group] = (*groups.get(metric.group, ()), name)
    chosen: list[str] = []
    for name in names:
        if name not in METRICS and name not in groups:
            expected = ", ".join((*groups, *METRICS))
            raise ConfigError(f"metrics: {name!r} is not one of {expected}")
        chosen += groups.get(name, (name,))
    return tuple(name for name in METRICS if name in chosen)


def flags(
    names: Iterable[str], scenes: Scenes, truth: Float64Array, rival_truth: Float64Array
) -> Mapping[str, MetricCheck]:
    """Try metrics on corrupted truths; only metrics that look at maps alone can be tried.

    Parameters
    ----------
    scenes
        Clips of a model whose contributions are known.
    truth, rival_truth
        (clips, T, P): true contributions to each label, and to each rival.
    """
    result = {}
    for name in names:
        metric = METRICS[name]
        if metric.of_maps is None:
            continue
        sign = 1 if metric.better == "higher" else -1
        known = np.concatenate([truth, rival_truth]) if metric.on == "double" else truth
        result[name] = check_metric(
            name, _signed(metric.of_maps, sign, scenes), known, seed=scenes.seed
        )
    return result


def _signed(of_maps: OfMaps, sign: int, scenes: Scenes) -> Callable[[Float64Array], Float64Array]:
    return lambda maps: sign * of_maps(scenes, maps)
