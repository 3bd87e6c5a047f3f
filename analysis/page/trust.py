"""How far to trust the maps: what the model has told about a sample of clips, for the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.store.measured import FLAG, FLAGGED, NO_QUALITY, Measured, Sample

_BY_CLASS = "gap patches"
_LOWER_IS_BETTER = ("kept", *("class", "random", "max"))
"""Figures whose names begin with one of these are better where they are lower."""
_WHAT = {
    "gap patches": "insertion AUC less deletion AUC over patches",
    "gap frames": "the same over whole frames",
    "gap tubes": "the same over a patch in all frames",
    "T of the map": "when the map says",
    "frame importance": "the run's frame importance",
    "change of pixels": "which asks no model",
    "class sensitivity": "correlation with the map of the runner-up class; 1 is blind to the class",
    "random classifier": "correlation with the map under classifiers of noise",
    "random blocks": "correlation with the map under blocks of noise",
    "max-sensitivity": "largest relative change of the map under noise of 0.02",
}


def trust_of(sample: Sample | None, names: Sequence[str]) -> dict[str, Any] | None:
    """Give figures over all clips, what to know of them, and the gap over patches of each class.

    Parameters
    ----------
    names
        Classes of the page, in order.

    Returns
    -------
    None if nothing was measured
    """
    if sample is None or not sample.n_clips:
        return None
    own = None if sample.repeatability is None else sample.average(sample.repeatability)
    return {
        "n": sample.n_clips,
        "failed": sum(sample.failed.values()),
        "flag": FLAG,
        "groups": {
            group: [
                {"name": name, **_numbers(each), **_said_of(name)}
                for name, each in sample.averages(group).items()
                if name not in NO_QUALITY
            ]
            for group in sample.figures
        },
        "own": own and _numbers(own),
        "notes": sample.notes_on_sanity(),
        "classes": _of_classes(sample.by_class("faithfulness", _BY_CLASS), names),
    }


def _of_classes(found: Mapping[str, Measured], names: Sequence[str]) -> dict[str, Any] | None:
    """Columns of the gap by class, an entry a class of the page; None where nothing is known."""
    if not found:
        return None
    of_names = [found.get(name) for name in names]
    return {
        "mean": [each and each.mean for each in of_names],
        "low": [each and each.low for each in of_names],
        "high": [each and each.high for each in of_names],
        "n": [each.n_clips if each else 0 for each in of_names],
    }


def _numbers(each: Measured) -> dict[str, Any]:
    return {"mean": each.mean, "low": each.low, "high": each.high}


def _said_of(name: str) -> dict[str, Any]:
    kind, _, share = name.partition(" ")
    what = {
        "removed": f"fall of the probability without the highest {share}",
        "kept": f"fall of the probability with the highest {share} alone",
    }.get(kind, _WHAT.get(name, ""))
    return {
        "what": what,
        "flagged": name in FLAGGED,
        "better": "lower" if name.startswith(_LOWER_IS_BETTER) else "higher",
    }
