"""What `jobs.evaluate` prints of a sample of clips that the model was asked about."""

import textwrap
from collections.abc import Mapping

from pipeline.store.measured import FILLS, NO_QUALITY, Measured, Sample, marked

_INTERVAL_WIDTH = len("(-0.123 to -0.045)")
_WIDTH = 100
_HEADS = f"{'mean':>7}  {'(95 % interval)':<{_INTERVAL_WIDTH}}"
_SANITY_SAYS = {
    "class sensitivity": "correlation with the runner-up's map",
    "random classifier": "correlation under classifiers of noise",
    "random blocks": "correlation under blocks of noise",
    "max-sensitivity": "relative change under noise of 0.02",
}


def print_sample(run_url: str, told: Sample, *, by_class: bool) -> None:
    """Print the figures of each group that was measured, over all clips.

    Parameters
    ----------
    run_url
        The run that the sample is of.
    by_class
        Also print the first figure of each group by class, the worst class first, and say where
        all of them are.
    """
    if told.figures["faithfulness"]:
        _print_faithfulness(told, by_class=by_class)
    if told.figures["time"]:
        _print_time(told, by_class=by_class)
    if told.figures["sanity"]:
        _print_sanity(told, by_class=by_class)
    if by_class:
        print(f"Every figure by class: analysis.measured_by_class({run_url!r})")
        print()


def interval(low: float, high: float, places: int) -> str:
    """Print both ends, or that there are too few videos for any."""
    return f"({low:.{places}f} to {high:.{places}f})" if low == low else "(few videos)"


def _print_faithfulness(told: Sample, *, by_class: bool) -> None:
    heads = _HEADS + "".join(f"{fill:>9}" for fill in FILLS)
    print(f"{'less random orders':<22} {heads}")
    for name, each in told.averages("faithfulness").items():
        mark = "  no quality" if name in NO_QUALITY else ""
        print(f"{marked(name):<22} {_told(each)}{mark}")
    print()
    if by_class:
        _print_classes("gap patches", heads, told.by_class("faithfulness", "gap patches"))


def _print_time(told: Sample, *, by_class: bool) -> None:
    """Print how far profiles agree with the reference, beside how far that does with itself."""
    from pipeline.evaluation.measures import SHAPLEY_FILL

    assert told.repeatability is not None
    own = told.average(told.repeatability)
    heads = f"{_HEADS}{'its own':>9}  (95 % interval)"
    print(f"{'frames by Shapley':<22} {heads}")
    for name, each in told.averages("time").items():
        print(f"{marked(name):<22} {_told(each)}{_own(own)}".rstrip())
    print(
        f"Rank agreement; absent frames show the clip's {SHAPLEY_FILL} frame. Its own: of the "
        "reference\nwith itself, on the clip shifted by 2 pixels. What is above it doesn't repeat."
    )
    print()
    if by_class:
        of_classes = told.of_classes(told.repeatability)
        _print_classes(
            "T of the map",
            f"{heads:<{len(_HEADS) + len(_own(own))}}",
            told.by_class("time", "T of the map"),
            ends={name: _own(each) for name, each in of_classes.items()},
        )


def _print_sanity(told: Sample, *, by_class: bool) -> None:
    print(f"{'sanity, lower: better':<22} {_HEADS}")
    for name, each in told.averages("sanity").items():
        print(f"{marked(name):<22} {_told(each)}  {_SANITY_SAYS[name]}")
    for note in told.notes_on_sanity():
        print(textwrap.fill(note, _WIDTH))
    print()
    if by_class:
        # The first that isn't 1 by construction.
        name = "class sensitivity" if told.is_of_class else "random blocks"
        _print_classes(name, _HEADS, told.by_class("sanity", name), highest_first=True)


def _print_classes(
    figure: str,
    heads: str,
    classes: Mapping[str, Measured],
    *,
    highest_first: bool = False,
    ends: Mapping[str, str] | None = None,
) -> None:
    if not classes:
        print(f"{marked(figure)} of class: no clip of the sample has a label")
        print()
        return
    print(f"{marked(figure)} of class".ljust(22), f"{heads}  clips")
    ordered = sorted(classes.items(), key=lambda item: item[1].mean, reverse=highest_first)
    for name, each in ordered:
        print(f"{name:<22} {_told(each)}{ends[name] if ends else ''} {each.n_clips:>6}")
    print()


def _told(each: Measured) -> str:
    fills = "".join(f"{value:>9.3f}" for value in each.of_fills.values())
    return f"{each.mean:>7.3f}  {interval(each.low, each.high, 3):<{_INTERVAL_WIDTH}}{fills}"


def _own(each: Measured) -> str:
    return f"{each.mean:>9.3f}  {interval(each.low, each.high, 3):<{_INTERVAL_WIDTH}}"
