"""A cell of the leaderboard: written whole, read as it was, added to, refused if of others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import RunMismatchError, StoreError
from pipeline.evaluation.benchmark.cells import Cell, cell_url, measure, read_cell, write_cell
from pipeline.evaluation.benchmark.subject import Cost
from pipeline.evaluation.methods.explainer import METHODS
from tests.evaluation.benchmark.subjects import hand_set_subject

pytestmark = pytest.mark.usefixtures("one_thread")
IDENTITY = {"weights": "abc", "clips": 3}


def test_each_method_has_a_file_of_its_own():
    urls = [cell_url("out/", "m", 1, method) for method in METHODS]
    assert len(set(urls)) == len(urls)
    assert all(url.startswith("out/values/m/1/") and url.endswith(".parquet") for url in urls)


def test_a_cell_is_read_as_it_was_written(tmp_path):
    values = {"AP": np.array([0.25, np.nan, 1]), "gap patches": np.arange(3.0)}
    cell = Cell("m", 1, "staa", values, Cost(0.5, 0.25, 1.0))
    write_cell(cell_url(str(tmp_path), "m", 1, "staa"), cell, IDENTITY)
    read = read_cell(str(tmp_path), "m", 1, "staa", IDENTITY)
    assert read.cost == cell.cost
    assert read.reason == ""
    for name, of_metric in values.items():
        np.testing.assert_array_equal(read.values[name], of_metric)
    assert read.lacks(["AP", "Gini"]) == ("Gini",)
    absent = read_cell(str(tmp_path), "m", 2, "staa", IDENTITY)
    assert absent == Cell("m", 2, "staa")


def test_a_cell_of_something_else_or_a_damaged_one_is_named(tmp_path):
    url = cell_url(str(tmp_path), "m", 1, "staa")
    write_cell(url, Cell("m", 1, "staa", {"AP": np.zeros(3)}), IDENTITY)
    with pytest.raises(
        RunMismatchError, match=r"staa\.parquet was measured with clips=3, .* has 4"
    ):
        read_cell(str(tmp_path), "m", 1, "staa", IDENTITY | {"clips": 4})
    content = Path(url).read_bytes()
    for damaged in (b"", content[:-9], b"text"):
        Path(url).write_bytes(damaged)
        with pytest.raises(StoreError, match=r"staa\.parquet can't be read: .*; delete it"):
            read_cell(str(tmp_path), "m", 1, "staa", IDENTITY)


def test_what_is_there_is_kept_and_what_lacks_is_added():
    subject, _, _ = hand_set_subject(3)
    first = measure(Cell("m", 0, "staa"), subject, ["AP"])
    assert set(first.values) == {"AP"}
    kept = Cell("m", 0, "staa", {"AP": np.full(3, 7.0)}, first.cost)
    second = measure(kept, subject, ["AP", "Gini"])
    assert set(second.values) == {"AP", "Gini"}
    assert (second.values["AP"] == 7).all()
    assert second.cost == first.cost


class Stranger:
    """An adapter that is of no family."""

    def __init__(self, adapter):
        self._adapter = adapter

    def __getattr__(self, name):
        return getattr(self._adapter, name)


@pytest.mark.parametrize("fault", ["refuses", "gives NaN"])
def test_a_method_that_can_not_explain_a_model_is_named_with_the_reason(fault, tmp_path):
    subject, _, _ = hand_set_subject(2)
    parameters = list(subject.adapter.model.parameters())
    before = [parameter.data.clone() for parameter in parameters]
    if fault == "refuses":
        name, told = "published attention", "expected a TimeSformer"
        subject = replace(subject, adapter=Stranger(subject.adapter))
    else:
        name, told = "staa", "expected finite values"
        for parameter in parameters:
            parameter.data.fill_(torch.nan)
    cell = measure(Cell("m", 0, name), subject, ["AP"])
    assert told in cell.reason
    assert not cell.values
    write_cell(cell_url(str(tmp_path), "m", 0, name), cell, IDENTITY)
    read = read_cell(str(tmp_path), "m", 0, name, IDENTITY)
    assert read == cell
    if fault == "refuses":
        assert read.is_done
        assert read.lacks(["AP"]) == ()
        return
    # Whoever has written the method mends it, and the same command measures it, also one that asks
    # for nothing but what was measured before.
    assert not read.is_done
    measured = replace(read, values={"Gini": np.zeros(2)}, cost=Cost(0, 0, 0))
    assert measured.is_to_be_measured(["Gini"])
    assert not replace(measured, reason="").is_to_be_measured(["Gini"])
    for parameter, values in zip(parameters, before, strict=True):
        parameter.data = values
    mended = measure(read, subject, read.lacks(["AP"]))
    assert mended.reason == ""
    assert np.isfinite(mended.values["AP"]).all()
