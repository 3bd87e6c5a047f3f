"""Tables and pictures of the leaderboard."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.benchmark.cells import Cell
from pipeline.evaluation.benchmark.subject import Cost
from pipeline.evaluation.benchmark.summary import Results
from pipeline.evaluation.benchmark.tables import as_json, as_markdown, quality_against_cost
from pipeline.evaluation.methods.explainer import PRODUCT_DEFAULT
from pipeline.evaluation.metric_checks import Comparison, MetricCheck

METRICS = ("AP", "kept 5%", "paper's tau")
CHECKS = {
    "AP": MetricCheck("AP", 1.0, {"random": Comparison(-0.5, 0.1, 0.0, 8)}),
    "paper's tau": MetricCheck("paper's tau", 0.2, {"random": Comparison(0.4, 0.1, 0.875, 8)}),
}


@pytest.fixture
def results():
    values = {
        "staa": {"AP": [0.2, 0.4], "kept 5%": [0.1, 0.3], "paper's tau": [0.5, 0.5]},
        "random": {"AP": [0.1, np.nan], "kept 5%": [0.0, 0.0], "paper's tau": [0.7, 0.7]},
    }
    cells = {
        ("m", 1, method): Cell(
            "m",
            1,
            method,
            {name: np.array(each) for name, each in of_metrics.items()},
            Cost(0.03 if method == "staa" else 0.0, 0.02, 1.0),
        )
        for method, of_metrics in values.items()
    }
    cells["m", 1, "published attention"] = Cell("m", 1, "published attention", reason="it can't")
    return Results(cells, ("m",), (1,), ("random", "published attention", "staa"), 2)


def test_markdown_has_a_row_for_each_method_the_best_first_and_flags_at_the_column(results):
    text = as_markdown(results, METRICS, CHECKS, None, {"seeds": "1"})
    localisation = text.split("## Localisation\n\n")[1].split("\n\n")[0].splitlines()
    assert localisation[0] == "| method | AP ↑ |"
    assert [line.split(" | ")[0] for line in localisation[2:]] == [
        *("| staa", "| random", "| published attention")
    ]
    assert localisation[2] == "| staa | 0.30 [0.20, 0.40] |"
    assert localisation[3] == "| random | 0.10 [0.10, 0.10] (1 n/a) |"
    assert localisation[4] == "| published attention | n/a |"
    assert "| method | paper's tau ↑ (no quality) !1 |" in text
    assert "- **paper's tau** ranks above the truth: random (in 88% of clips)" in text
    assert "| staa | attention | 1.50 | 1 | 30.0 |" in text
    assert "- published attention on m: it can't" in text
    assert "## Decision" not in text


def test_the_products_default_is_marked_in_every_table_and_told(results):
    text = as_markdown(results, METRICS, CHECKS, None, {})
    assert "(default)" not in text
    cells = {
        key: replace(cell, method=PRODUCT_DEFAULT) if cell.method == "staa" else cell
        for key, cell in results.cells.items()
    }
    cells = {(*key[:2], cell.method): cell for key, cell in cells.items()}
    methods = ("random", "published attention", PRODUCT_DEFAULT)
    with_default = replace(results, cells=cells, methods=methods)
    text = as_markdown(with_default, METRICS, CHECKS, None, {})
    assert "(default): what `jobs.attribute` computes without `--method`." in text
    assert f"| **{PRODUCT_DEFAULT}** (default) | 0.30 [0.20, 0.40] |" in text
    assert f"| **{PRODUCT_DEFAULT}** (default) | attention | 1.50 | 1 | 30.0 |" in text
    given = as_json(with_default, METRICS, CHECKS, None, {})["methods"]
    assert [given[name]["is_product_default"] for name in methods] == [False, False, True]


def test_json_has_every_figure_and_null_where_there_is_none(results):
    given = json.loads(json.dumps(as_json(results, METRICS, CHECKS, None, {}), allow_nan=False))
    assert given["methods"]["staa"]["figures"]["AP"]["mean"] == pytest.approx(0.3)
    assert given["methods"]["published attention"]["figures"]["AP"] is None
    assert given["methods"]["random"]["figures"]["AP"]["n_undefined"] == 1
    assert given["metrics"]["paper's tau"]["flags"] == ["random"]
    assert given["metrics"]["kept 5%"]["flags"] is None
    assert given["cannot_explain"] == {"published attention": {"m": "it can't"}}


def test_the_picture_is_a_png(results):
    assert quality_against_cost(results, METRICS)[:8] == b"\x89PNG\r\n\x1a\n"
    assert quality_against_cost(results, ("paper's tau",))[:4] == b"\x89PNG"
