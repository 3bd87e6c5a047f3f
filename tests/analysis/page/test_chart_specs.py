"""Charts of the page: Vega that needs nothing of a run, with places for what a browser knows."""

import json

import pytest

from analysis.page.chart_specs import MOST_NAMED, chart_specs


def strings(value):
    if isinstance(value, dict):
        return [s for v in value.values() for s in strings(v)]
    if isinstance(value, list):
        return [s for v in value for s in strings(v)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("n_classes", [1, 2, MOST_NAMED, MOST_NAMED + 1, 400])
def test_what_the_browser_fills_in_is_a_string_of_its_own(n_classes):
    for name, spec in chart_specs(n_classes).items():
        texts = strings(spec)
        marked = {text for text in texts if "$" in text}
        expected = {"$accent", "$line", "$muted"}
        expected |= {"$low"} if name == "confusion" else {"$ink", "$mark", "$x", "$y"}
        assert marked == expected, name
        assert "vega-lite" not in json.dumps(spec)


def test_points_and_names_come_from_the_page():
    specs = chart_specs(3)
    for name, given in {
        "scatter": {"points"},
        "scatter_diagonal": {"points", "ends"},
        "confusion": {"pairs"},
    }.items():
        named = {data["name"]: data for data in specs[name]["data"]}
        assert given <= set(named)
        assert not any("values" in data or "url" in data for data in named.values())
    assert {"labels"} <= {signal["name"] for signal in specs["confusion"]["signals"]}
    assert {"pick", "brush"} <= {signal["name"] for signal in specs["scatter"]["signals"]}
