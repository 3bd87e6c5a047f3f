"""The leaderboard as people read it: Markdown, JSON, and quality against cost as a picture."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.lines import Line2D

from pipeline.evaluation.benchmark.metrics import DECIDING, METRICS
from pipeline.evaluation.benchmark.summary import Decision, Figure, Results
from pipeline.evaluation.methods.explainer import METHODS, PRODUCT_DEFAULT
from pipeline.evaluation.metric_checks import MetricCheck

_COLOURS = {
    "nothing": "#888888",
    "attention": "#1f77b4",
    "gradients": "#2ca02c",
    "forward passes": "#d62728",
}
_FLAG = "!"
_DEFAULT = "(default)"
_DRAWN = ("AP", "contrastive drop", "gap patches", "frames' Shapley")


def as_json(
    results: Results,
    metrics: Sequence[str],
    checks: Mapping[str, MetricCheck],
    decision: Decision | None,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Give everything but the values per clip, as JSON holds it; NaN is null."""
    figures = results.figures(metrics)
    whole: dict[str, Any] = _without_nan(
        {
            "facts": dict(facts),
            "metrics": {
                name: {
                    "what": METRICS[name].what,
                    "better": METRICS[name].better,
                    "is_quality": METRICS[name].is_quality,
                    "flags": list(checks[name].flagged) if name in checks else None,
                }
                for name in metrics
            },
            "methods": {
                method: {
                    "needs": METHODS[method].needs,
                    "is_product_default": method == PRODUCT_DEFAULT,
                    "is_class_specific": METHODS[method].is_class_specific,
                    "cost_in_forward_passes": results.cost(method),
                    "cpu_seconds_per_clip": results.seconds(method),
                    "forward_passes_counted": results.n_forward(method),
                    "figures": {
                        name: each and asdict(each) for name, each in figures[method].items()
                    },
                }
                for method in results.methods
            },
            "cannot_explain": results.reasons(),
            "decision": decision and asdict(decision),
        }
    )
    return whole


def as_markdown(
    results: Results,
    metrics: Sequence[str],
    checks: Mapping[str, MetricCheck],
    decision: Decision | None,
    facts: Mapping[str, Any],
) -> str:
    """Write the tables: one of each group of metrics, what is flagged, and the decision."""
    figures = results.figures(metrics)
    parts = [_facts(facts)]
    if PRODUCT_DEFAULT in results.methods:
        parts.append(f"{_DEFAULT}: what `jobs.attribute` computes without `--method`.")
    for group in dict.fromkeys(METRICS[name].group for name in metrics):
        of_group = [name for name in metrics if METRICS[name].group == group]
        parts.append(f"## {group.capitalize()}\n\n" + _table(results, figures, of_group, checks))
    parts.append(_cost_table(results))
    if flagged := _flagged(metrics, checks):
        parts.append(flagged)
    if reasons := results.reasons():
        lines = [
            f"- {method} on {', '.join(of_models)}: {next(iter(of_models.values()))}"
            for method, of_models in reasons.items()
        ]
        parts.append("## What can't be explained\n\n" + "\n".join(lines))
    if decision is not None:
        parts.append(_decision(decision))
    return "\n\n".join(parts) + "\n"


def quality_against_cost(results: Results, metrics: Sequence[str]) -> bytes:
    """Draw metrics against cost in forward passes, with intervals, as PNG.

    Parameters
    ----------
    metrics
        Those that were measured; of each kind of quality one is drawn.
    """
    drawn = [name for name in _DRAWN if name in metrics] or list(metrics[:1])
    figures = results.figures(drawn)
    picture = Picture(figsize=(9, 4.5 * len(drawn)), layout="constrained")
    for axes, metric in zip(np.atleast_1d(picture.subplots(len(drawn))), drawn, strict=True):
        of_methods = {method: each[metric] for method, each in figures.items()}
        _draw(axes, results, of_methods, better=METRICS[metric].better)
        axes.set_ylabel(f"{metric} ({METRICS[metric].better} is better)")
    written = io.BytesIO()
    picture.savefig(written, format="png", dpi=100)
    return written.getvalue()


def _draw(
    axes: Axes, results: Results, figures: Mapping[str, Figure | None], *, better: str
) -> None:
    points: dict[str, tuple[float, float]] = {}
    for method, each in figures.items():
        cost = results.cost(method)
        if each is None or cost is None:
            continue
        # Methods that ask no model cost next to nothing, and stand at the left end of the axis.
        place, colour = max(cost, 0.05), _COLOURS[METHODS[method].needs]
        error = [[each.mean - each.low], [each.high - each.mean]]
        axes.errorbar(place, each.mean, yerr=np.maximum(error, 0), fmt="o", color=colour, ms=4)
        points[method] = (place, each.mean)
    axes.set_xscale("log")
    axes.set_xlabel("cost of a clip, in forward passes (CPU time)")
    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", label=needs)
        for needs, colour in _COLOURS.items()
    ]
    # Above the axes, where no point is.
    axes.legend(
        handles=handles, fontsize=7, ncols=len(handles), loc="lower left", bbox_to_anchor=(0, 1)
    )
    _name(axes, points, best_last=better == "lower")


def _name(axes: Axes, points: Mapping[str, tuple[float, float]], *, best_last: bool) -> None:
    """Name points, the product's default and the best first; what would cover a name has none."""
    axes.autoscale_view()
    named: list[tuple[float, float]] = []
    ordered = sorted(points, key=lambda method: points[method][1], reverse=not best_last)
    for method in sorted(ordered, key=lambda method: method != PRODUCT_DEFAULT):
        x, y = axes.transData.transform(points[method])
        if any(abs(x - other_x) < 100 and abs(y - other_y) < 9 for other_x, other_y in named):
            continue
        named.append((x, y))
        axes.annotate(
            method,
            points[method],
            fontsize=6,
            xytext=(4, 2),
            textcoords="offset points",
            fontweight="bold" if method == PRODUCT_DEFAULT else "normal",
        )


def _facts(facts: Mapping[str, Any]) -> str:
    lines = [f"| {key} | {value} |" for key, value in facts.items()]
    return "# Leaderboard\n\n| | |\n| --- | --- |\n" + "\n".join(lines)


def _table(
    results: Results,
    figures: Mapping[str, Mapping[str, Figure | None]],
    metrics: Sequence[str],
    checks: Mapping[str, MetricCheck],
) -> str:
    heads = [_head(name, checks) for name in metrics]
    first = METRICS[metrics[0]]
    worst = -np.inf if first.better == "higher" else np.inf

    def key(method: str) -> float:
        each = figures[method][metrics[0]]
        return worst if each is None else each.mean

    ordered = sorted(results.methods, key=key, reverse=first.better == "higher")
    rows = [
        f"| {_marked(method)} | "
        + " | ".join(_cell(figures[method][name]) for name in metrics)
        + " |"
        for method in ordered
    ]
    legend = "; ".join(f"{name}: {METRICS[name].what}" for name in metrics)
    ruler = "| --- |" + " --- |" * len(metrics)
    return "\n".join([f"| method | {' | '.join(heads)} |", ruler, *rows]) + f"\n\n{legend}."


def _marked(method: str) -> str:
    return f"**{method}** {_DEFAULT}" if method == PRODUCT_DEFAULT else method


def _head(name: str, checks: Mapping[str, MetricCheck]) -> str:
    metric = METRICS[name]
    arrow = "↑" if metric.better == "higher" else "↓"
    beside = "" if metric.is_quality else " (no quality)"
    if name not in checks:
        return f"{name} {arrow}{beside}"
    flagged = checks[name].flagged
    return f"{name} {arrow}{beside}" + (f" {_FLAG}{len(flagged)}" if flagged else "")


def _cell(each: Figure | None) -> str:
    if each is None:
        return "n/a"
    undefined = f" ({each.n_undefined} n/a)" if each.n_undefined else ""
    return f"{each.mean:.2f} [{each.low:.2f}, {each.high:.2f}]{undefined}"


def _cost_table(results: Results) -> str:
    def cost(method: str) -> float:
        return results.cost(method) or 0.0

    rows = []
    for method in sorted(results.methods, key=cost):
        ratio, seconds, counted = (
            results.cost(method),
            results.seconds(method),
            results.n_forward(method),
        )
        if ratio is None or seconds is None or counted is None:
            continue
        rows.append(
            f"| {_marked(method)} | {METHODS[method].needs} | {ratio:.2f} | {counted:.0f} | "
            f"{1000 * seconds:.1f} |"
        )
    return (
        "## Cost\n\n| method | needs | in forward passes (time) | forward passes counted | "
        "CPU ms a clip |\n| --- | --- | --- | --- | --- |\n" + "\n".join(rows)
    )


def _flagged(metrics: Sequence[str], checks: Mapping[str, MetricCheck]) -> str:
    lines = []
    for name in metrics:
        if name not in checks or not checks[name].flagged:
            continue
        told = ", ".join(
            f"{kind} (in {checks[name].comparisons[kind].preferred:.0%} of clips)"
            for kind in checks[name].flagged
        )
        lines.append(f"- **{name}** ranks above the truth: {told}")
    if not lines:
        return ""
    return (
        f"## Metrics that are flagged ({_FLAG})\n\nOn the model set by hand, whose contributions "
        "are known, these rank a corrupted truth above the truth:\n\n" + "\n".join(lines)
    )


def _decision(decision: Decision) -> str:
    rows = [
        f"| {_marked(each.method)} | {_cell(each.score)} | {_cell(each.gain)} | "
        f"{'passes' if each.passes_guards else 'fails'} |"
        for each in decision.candidates
    ]
    return (
        f"## Decision: {decision.winner}\n\nMethods of at most 1.1 forward passes, by the mean of "
        f"{' and '.join(DECIDING)}; the guards are a two-actor share above 0.75 and a correlation "
        "under 0.5 with the map of a random classifier. The old default stays unless the gain's "
        "interval is above 0.\n\n| method | score | gain over the old default | guards |\n"
        "| --- | --- | --- | --- |\n" + "\n".join(rows)
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
