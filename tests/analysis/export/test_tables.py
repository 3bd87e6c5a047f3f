"""Tables for other tools: what is written comes back, whatever names and values there are."""

import csv
import io
import json
import math

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.audit.audit import save_findings
from analysis.audit.finding import Example, Finding, as_table
from analysis.audit.settings import AuditSettings
from analysis.export.tables import encode, findings_table, scores_table, select, unescaped
from pipeline.errors import ConfigError, StoreError
from tests.analysis.stores import random_columns, small_layout, write_run

HOSTILE = (
    *("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "\uff1d1", "'", "''=", "'quoted'"),
    *("a,b", 'say "no"', "two\nlines", "a\r\nb", "🎬", "naïve", "\x00\x07\x1b[2J", "</script>"),
    *("", " ", "null", "NaN", "1", "\u2028", "\u202egpj"),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(HOSTILE)


def table_of(texts, numbers):
    n = len(texts)
    return pd.DataFrame(
        {
            "row": np.arange(n),
            "=name, of\n'it'": pd.array(texts, dtype=object),
            "kind": pd.Categorical(texts),
            "score": np.array(numbers, np.float32),
            "right": pd.array([None if n % 3 == 2 else n % 2 == 0 for n in range(n)], object),
            "place": [[1, 2] if n % 2 else None for n in range(n)],
        }
    )


NUMBERS = st.floats(width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 0.1, -0.0])
ROWS = st.lists(st.tuples(TEXTS, NUMBERS), min_size=1, max_size=6)


@given(ROWS)
def test_csv_comes_back_and_holds_no_formula(rows):
    table = table_of(*zip(*rows, strict=True))
    read = list(csv.reader(io.StringIO(encode(table, "csv").decode("utf-8"), newline="")))
    assert len(read) == len(rows) + 1
    assert [unescaped(name) for name in read[0]] == list(table.columns)
    for (text, number), cells in zip(rows, read[1:], strict=True):
        assert unescaped(cells[1]) == unescaped(cells[2]) == text
        assert (cells[3] == "") == math.isnan(number)
        if cells[3]:
            assert np.float32(cells[3]) == np.float32(number)
    for cells in read:
        for at, cell in enumerate(cells):
            is_number = cells is not read[0] and at in (0, 3)
            assert is_number or not cell.startswith(
                ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d")
            )
    truths = [("" if n % 3 == 2 else str(n % 2 == 0)) for n in range(len(rows))]
    assert [cells[4] for cells in read[1:]] == truths
    assert [cells[5] for cells in read[1:]] == ["[1, 2]" if n % 2 else "" for n in range(len(rows))]


@given(ROWS)
def test_json_comes_back_and_has_no_number_that_json_lacks(rows):
    table = table_of(*zip(*rows, strict=True))

    def refuse(name):
        raise AssertionError(name)

    read = json.loads(encode(table, "json").decode("utf-8"), parse_constant=refuse)
    assert len(read) == len(rows)
    for (text, number), one in zip(rows, read, strict=True):
        assert list(one) == list(table.columns)
        assert one["kind"] == text == one["=name, of\n'it'"]
        score = one["score"]
        assert (score is not None) == math.isfinite(number)
        assert score is None or np.float32(score) == np.float32(number)
        assert number != 0.1 or score == 0.1
    assert [one["place"] for one in read] == [[1, 2] if n % 2 else None for n in range(len(rows))]


@given(ROWS)
def test_parquet_comes_back(rows):
    table = table_of(*zip(*rows, strict=True))
    read = pq.read_table(io.BytesIO(encode(table, "parquet"))).to_pandas()
    assert read["kind"].tolist() == table["kind"].tolist()
    np.testing.assert_array_equal(read["score"], table["score"])
    assert read["score"].dtype == np.float32


@pytest.mark.parametrize("form", ["parquet", "csv", "json"])
def test_scores_of_a_run_come_back(scored, form):
    url, _, _ = scored
    table = scores_table(url)
    data = io.BytesIO(encode(table, form))
    read = {"parquet": pd.read_parquet, "csv": pd.read_csv, "json": pd.read_json}[form](data)
    assert list(read.columns) == list(table.columns)
    assert read["video_id"].tolist() == table["video_id"].tolist()
    expected = table["entropy"].to_numpy(np.float64)
    np.testing.assert_allclose(read["entropy"].to_numpy(np.float64), expected, rtol=1e-6)
    assert read["entropy"].isna().sum() == 2


def test_rows_and_a_condition_choose(scored):
    url, _, _ = scored
    assert scores_table(url, rows=[7, 3, 7])["row"].tolist() == [7, 3]
    chosen = scores_table(url, where="status == 'ok' and entropy < 0.5 and split == 'val'")
    whole = scores_table(url).set_index("row")
    expected = whole[(whole["entropy"] < 0.5) & (whole["split"] == "val")]
    assert chosen["row"].tolist() == expected.index.tolist()
    right = scores_table(url, where="correct == True and label in ['archery', 'bowling']")
    among = whole["label"].isin(["archery", "bowling"])
    # The column holds missing values, too: `is True` would be false for all of it.
    assert right["row"].tolist() == whole.index[(whole["correct"] == True) & among].tolist()  # noqa: E712


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("entrpy > 0", "name .entrpy. is not defined; the columns are row, view"),
        ("entropy >", "can't be used"),
        ("entropy + 1", "is no condition"),
        ("@scores_table", "can't be used"),
        ("__import__('os').getcwd() == ''", "call isn't allowed"),
        ("entropy.__class__ == 1", "attribute isn't allowed"),
        ("row.to_csv('/tmp/x')", "isn't allowed"),
        ("entropy = 1", "can't be used"),
        ("", "can't be used"),
    ],
)
def test_what_is_no_condition_is_refused(scored, where, said):
    with pytest.raises(ConfigError, match=said):
        scores_table(scored[0], where=where)


def test_a_row_that_is_not_there_is_refused(scored):
    with pytest.raises(ConfigError, match=r"has no row 23: expected 0 to 22"):
        scores_table(scored[0], rows=[0, 23])


def test_nothing_is_computed_where_there_is_no_table(tmp_path):
    layout = small_layout(4)
    url = write_run(tmp_path / "run", layout, random_columns(layout))
    with pytest.raises(StoreError, match=r"no table of scores at .*: jobs.aggregate makes it"):
        scores_table(url)
    with pytest.raises(StoreError, match=r"no findings at .*: jobs.audit makes them"):
        findings_table(url)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["attributions.zarr"]


def finding(name, **given):
    plain = {
        "kind": "logo",
        "scope": "class",
        "subject": (name,),
        "seen": f"{name} is seen",
        "check": "look",
        "effect": 2.0,
        "effect_name": "ratio",
        "low": math.nan,
        "high": math.nan,
        "p": 0.01,
        "q": 0.02,
        "n": 12,
        "strength": 0.5,
        "examples": (Example(3, name, None),),
        "method": "staa-paper",
        "class_specific": False,
    }
    return Finding(**{**plain, **given})


@pytest.mark.parametrize("form", ["parquet", "csv", "json"])
def test_findings_of_a_run_come_back(tmp_path, form):
    layout = small_layout(4)
    url = write_run(tmp_path / "run", layout, random_columns(layout))
    found = [finding("=cmd|' /C calc'!A0"), finding("b", kind="static", q=0.5)]
    save_findings(found, url, AuditSettings())
    assert len(findings_table(url, where="q < 0.1")) == 1
    data = encode(findings_table(url), form)
    if form == "csv":
        (first, _) = csv.DictReader(io.StringIO(data.decode()))
        assert json.loads(first["subject"]) == list(found[0].subject)
        assert json.loads(first["examples"])[0]["video_id"] == found[0].subject[0]
        assert unescaped(first["seen"]) == found[0].seen
        assert first["seen"].startswith("'=")
        assert first["low"] == ""
        return
    read = (
        pd.read_parquet(io.BytesIO(data)) if form == "parquet" else pd.DataFrame(json.loads(data))
    )
    assert [list(subject) for subject in read["subject"]] == [list(f.subject) for f in found]
    assert read["key"].tolist() == [f.key for f in found]
    assert read["low"].isna().all()


def test_no_findings_are_a_table_too():
    empty = as_table([])
    assert json.loads(encode(empty, "json")) == []
    assert encode(empty, "csv").decode().startswith("key,kind")
    assert len(pd.read_parquet(io.BytesIO(encode(empty, "parquet")))) == 0
    assert select(empty, None) is empty
