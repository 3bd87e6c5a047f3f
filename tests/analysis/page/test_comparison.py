"""A second run beside the page's: joined on videos, refused where classes differ."""

import numpy as np
import pytest

from analysis.page.classes import Maps
from analysis.page.clips import attribution_data
from analysis.page.comparison import OtherRun
from analysis.page.run_tables import RunTables
from pipeline.errors import StoreError
from pipeline.store.schema import StoreLayout
from tests.analysis.stores import random_columns, small_layout, write_run


@pytest.fixture
def runs(tmp_path):
    """Two runs of eight videos each, five of which are in both, in another order."""
    layout = small_layout(8)
    one = random_columns(layout, seed=1)
    ids = [f"clip{row}" for row in (7, 6, 5, 4, 3)] + ["x", "y", "z"]
    other = random_columns(layout, seed=2, video_id=np.array(ids, object))
    urls = [
        write_run(tmp_path / name, layout, columns, digest=name)
        for name, columns in (("one", one), ("other", other))
    ]
    page, beside = (RunTables.of_run(url) for url in urls)
    return page, OtherRun.of(beside, page), other


def test_clips_get_the_attribution_of_the_same_video(runs):
    page, beside, other = runs
    records = [{"row": row, "video": f"clip{row}"} for row in (0, 3, 4, 7)]
    beside.add_to(records, page.table["view"])
    assert "other" not in records[0]
    for record, row in zip(records[1:], (4, 3, 0), strict=True):
        expected = attribution_data(other["spatial"][row], other["temporal"][row])
        assert record["other"]["row"] == row
        assert record["other"]["map"] == expected["map"]
        assert record["other"]["probability"] == pytest.approx(other["probability"][row])


def test_classes_are_held_side_by_side(runs):
    page, beside, _ = runs
    maps = Maps.of(page.statistics)
    overview = beside.overview(page, maps)
    assert overview["nShared"] == 5
    assert overview["classes"]["n"].sum() == 8
    p, q = (m.reshape(3, -1) / 15 for m in (maps.spatial, beside.maps.spatial))
    known = np.isfinite(p).all(axis=1) & np.isfinite(q).all(axis=1)
    assert overview["agreement"][known] == pytest.approx(np.sqrt(p * q).sum(axis=1)[known])
    index = int(np.flatnonzero(known)[0])
    shown = beside.of_class(index, maps, None)
    assert shown["n"] == overview["classes"]["n"][index]
    assert "difference" in shown


def test_a_run_compared_with_itself_agrees(runs):
    page, _, _ = runs
    maps = Maps.of(page.statistics)
    agreement = OtherRun.of(page, page).overview(page, maps)["agreement"]
    assert agreement[np.isfinite(agreement)] == pytest.approx(1, abs=1e-3)


def test_runs_of_other_grids_are_shown_without_a_difference(runs, tmp_path):
    page, _, _ = runs
    layout = StoreLayout(
        n_rows=6, rows_per_shard=4, n_frames=4, n_times=4, height=2, width=2, n_ranks=2
    )
    url = write_run(tmp_path / "coarse", layout, random_columns(layout))
    beside = OtherRun.of(RunTables.of_run(url), page)
    maps = Maps.of(page.statistics)
    assert beside.overview(page, maps)["agreement"] is None
    shown = beside.of_class(int(beside.tables.groups[0]), maps, None)
    assert "difference" not in shown
    assert "map" in shown


def test_other_classes_are_refused(runs, tmp_path):
    page, _, _ = runs
    layout = small_layout(4)
    url = write_run(
        tmp_path / "others", layout, random_columns(layout), class_names=("a", "b", "c")
    )
    with pytest.raises(StoreError, match="expected two runs over the same classes"):
        OtherRun.of(RunTables.of_run(url), page)
