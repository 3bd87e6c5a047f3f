"""The page's charts as specifications: written in Vega-Lite, compiled to Vega for the browser.

Compiled here, the browser needs Vega alone, without the 250 kB that compile Vega-Lite. A string
that begins with ``$`` stands for what the browser fills in: colours, which follow light and dark,
and titles of axes, which a reader chooses. Points and names of classes come from the page's data
and are never part of a specification.
"""

from typing import Any

import vl_convert

Spec = dict[str, Any]

MOST_NAMED = 40
"""Classes that a confusion matrix names; of more it shows the numbers."""

_AXIS = {
    "domainColor": "$line",
    "gridColor": "$line",
    "tickColor": "$line",
    "labelColor": "$muted",
    "titleColor": "$muted",
    "titleFontWeight": "normal",
    "labelFontSize": 12,
    "titleFontSize": 12.5,
    "gridOpacity": 0.6,
}
_CONFIG = {
    "background": None,
    "font": "system-ui, sans-serif",
    "axis": _AXIS,
    "view": {"stroke": None},
    "legend": {"labelColor": "$muted", "titleColor": "$muted", "titleFontWeight": "normal"},
}
_FIT = {
    "width": "container",
    "autosize": {"type": "fit", "contains": "padding"},
    "config": _CONFIG,
}


def chart_specs(n_classes: int) -> dict[str, Spec]:
    """Compile the charts of a page.

    Returns
    -------
    Vega specifications by name: ``scatter`` of classes by two numbers, ``scatter_diagonal`` with a
    line of equal numbers, and ``confusion``.
    """
    return {
        "scatter": _compiled(_scatter(diagonal=False)),
        "scatter_diagonal": _compiled(_scatter(diagonal=True)),
        "confusion": _compiled(_confusion(n_classes)),
    }


def _compiled(spec: Spec) -> Spec:
    vega: Spec = vl_convert.vegalite_to_vega(spec)
    return vega


def _mark(kind: str, **properties: Any) -> Spec:
    """Make a mark for a canvas, where nobody would read a description of each of them."""
    return {"type": kind, "aria": False, **properties}


def _scatter(*, diagonal: bool) -> Spec:
    """Classes by two numbers.

    Data ``points`` has ``i``, ``name``, ``x``, ``y``, ``n`` and ``findings``, and ``ends`` the two
    ends of the diagonal. Signal ``pick`` is the class that is ringed, ``brush`` what is chosen.
    """

    def number(field: str) -> Spec:
        scale = {"zero": False, "nice": True, "padding": 10}
        return {"field": field, "type": "quantitative", "title": f"${field}", "scale": scale}

    position = {"x": number("x") | {"axis": {"tickCount": 7}}, "y": number("y")}
    line = {
        "data": {"name": "ends"},
        "mark": _mark("line", strokeDash=[4, 4], color="$muted", strokeWidth=1),
        "encoding": position,
    }
    dots = {
        "params": [{"name": "brush", "select": {"type": "interval"}}],
        "mark": _mark("circle", cursor="pointer"),
        "encoding": {
            **position,
            "size": {
                "field": "n",
                "type": "quantitative",
                "legend": None,
                "scale": {"range": [30, 220], "zero": True},
            },
            "color": {
                "condition": {"test": "datum.findings > 0", "value": "$mark"},
                "value": "$accent",
            },
            "opacity": {"condition": {"param": "brush", "value": 0.8}, "value": 0.12},
            "tooltip": [
                {"field": "name", "title": "class"},
                {"field": "x", "title": "x", "format": ".3~f"},
                {"field": "y", "title": "y", "format": ".3~f"},
                {"field": "n", "title": "clips"},
                {"field": "findings", "title": "findings"},
            ],
        },
    }
    ring = {
        "mark": _mark("point", size=320, strokeWidth=2.5, color="$ink", filled=False),
        "encoding": {
            **position,
            "opacity": {"condition": {"test": "datum.i === pick", "value": 1}, "value": 0},
        },
    }
    return {
        **_FIT,
        "height": 400,
        "data": {"name": "points"},
        "params": [{"name": "pick", "value": -1}],
        "layer": [*([line] if diagonal else []), dots, ring],
    }


def _confusion(n_classes: int) -> Spec:
    """Labels against predictions, as shares of each label's clips.

    Data ``pairs`` has ``l``, ``p``, their names ``label`` and ``prediction``, ``n`` and ``share``;
    signal ``labels`` has the names of all classes.
    """
    few = n_classes <= MOST_NAMED

    def axis(field: str, title: str) -> Spec:
        if few:
            return {
                "field": field,
                "type": "ordinal",
                "title": title,
                "sort": None,
                "scale": {"domain": list(range(n_classes))},
                "axis": {
                    "labelExpr": "labels[datum.value]",
                    "labelLimit": 110,
                    "labelAngle": -40 if field == "p" else 0,
                    "grid": False,
                },
            }
        return {
            "field": field,
            "type": "quantitative",
            "title": f"{title} (index of the class)",
            "scale": {"domain": [-1, n_classes], "nice": False, "reverse": field == "l"},
            "axis": {"grid": False},
        }

    mark = _mark("rect") if few else _mark("square", size=max(9, (440 / n_classes) ** 2))
    return {
        **_FIT,
        "height": 30 * n_classes + 130 if few else 560,
        "params": [{"name": "labels", "value": []}],
        "data": {"name": "pairs"},
        "mark": {**mark, "opacity": 1, "cursor": "pointer"},
        "encoding": {
            "x": axis("p", "Prediction"),
            "y": axis("l", "Label"),
            "color": {
                "field": "share",
                "type": "quantitative",
                "title": "share of the label",
                "scale": {"type": "sqrt", "domain": [0, 1], "range": ["$low", "$accent"]},
                "legend": {"format": ".0%", "orient": "top", "gradientLength": 160},
            },
            "tooltip": [
                {"field": "label", "title": "label"},
                {"field": "prediction", "title": "taken for"},
                {"field": "n", "title": "clips"},
                {"field": "share", "title": "share", "format": ".1%"},
            ],
        },
    }
