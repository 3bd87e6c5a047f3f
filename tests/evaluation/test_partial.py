"""Values that are kept shard by shard: what is there is known, and only what is of the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import StoreError
from pipeline.evaluation.partial import PartialMetrics
from pipeline.store.objects import CHECKED
from tests.analysis.stores import small_layout

LAYOUT = small_layout(10)
COLUMNS = {"one": (), "several": (3,)}


def opened(url, of=None, layout=LAYOUT, before=lambda: None):
    return PartialMetrics(url, of or {"truth": "a"}, COLUMNS, layout, before)


def values_of(shard, layout=LAYOUT):
    n_rows = len(layout.shard_rows(shard))
    rng = np.random.default_rng(shard)
    return {name: rng.random((n_rows, *sizes)) for name, sizes in COLUMNS.items()}


def test_shards_that_are_there_are_read_again_and_others_are_nan(tmp_path):
    url = str(tmp_path / "partial.zarr")
    partial = opened(url)
    assert partial.pending == [0, 1, 2]
    assert np.isnan(partial.read("several")).all()
    assert not (tmp_path / "partial.zarr").exists()
    partial.write(2, values_of(2))
    again = opened(url)
    assert again.pending == [0, 1]
    np.testing.assert_array_equal(again.read("several")[8:], values_of(2)["several"])
    assert np.isnan(again.read("one")[:8]).all()
    again.discard()
    assert again.pending == [0, 1, 2]
    assert not (tmp_path / "partial.zarr").exists()


def test_what_is_of_something_else_or_was_cut_off_is_begun_anew(tmp_path):
    url = str(tmp_path / "partial.zarr")
    opened(url).write(0, values_of(0))
    assert opened(url, {"truth": "b"}).pending == [0, 1, 2]
    group = zarr.open_group(url, mode="r+")
    del group["several"]
    assert opened(url).pending == [0, 1, 2]
    (tmp_path / "partial.zarr" / "zarr.json").write_text("{")
    partial = opened(url)
    assert partial.pending == [0, 1, 2]
    partial.write(1, values_of(1))
    assert opened(url).pending == [0, 2]


def test_what_an_earlier_release_began_is_begun_anew(tmp_path):
    """It wrote no object where all is NaN, which would be taken for lost ones."""
    url = str(tmp_path / "partial.zarr")
    group = zarr.create_group(url)
    for name, sizes in COLUMNS.items():
        group.create_array(
            name,
            shape=(10, *sizes),
            chunks=(4, *sizes),
            dtype="float64",
            fill_value=float("nan"),
            compressors=CHECKED,
        )[:4] = np.nan
    group.create_array("done", shape=(3,), chunks=(1,), dtype="bool")[0] = True
    group.attrs["of"] = {"truth": "a"}
    partial = opened(url)
    assert partial.pending == [0, 1, 2]
    for shard in partial.pending:
        partial.write(shard, values_of(shard))
    assert np.isfinite(opened(url).read("one")).all()


def test_a_storage_that_refuses_is_no_reason_to_begin_anew(tmp_path):
    url = str(tmp_path / "partial.zarr")
    partial = opened(url)
    partial.write(0, values_of(0))
    path = object_of(url, "several", 0)
    path.unlink()
    # Refused to everybody, root too: a name that leads to itself.
    path.symlink_to(path)
    with pytest.raises(StoreError, match=r"can't read .*partial\.zarr") as raised:
        partial.read("several")
    assert "--overwrite" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_nothing_is_written_where_that_is_not_to_be_and_a_refusal_is_one_line(tmp_path):
    def refuse():
        raise StoreError("somebody else has it")

    with pytest.raises(StoreError, match="somebody else"):
        opened(str(tmp_path / "a.zarr"), before=refuse).write(0, values_of(0))
    assert not (tmp_path / "a.zarr").exists()
    (tmp_path / "b.zarr").write_text("a file")
    with pytest.raises(StoreError, match=r"can't write .*b\.zarr"):
        opened(str(tmp_path / "b.zarr")).write(0, values_of(0))


def test_a_shard_of_another_size_is_of_another_run(tmp_path):
    url = str(tmp_path / "partial.zarr")
    layout = replace(LAYOUT, rows_per_shard=5)
    opened(url, {"rows": 5}, layout).write(1, values_of(1, layout))
    assert opened(url, {"rows": 5}, layout).pending == [0]


def object_of(url, name, shard):
    (path,) = (path for path in Path(url, name, "c", str(shard)).rglob("*") if path.is_file())
    return path


@pytest.mark.parametrize("damage", ["lost", "turned", "cut"])
def test_what_is_damaged_of_a_shard_is_no_value_of_it(tmp_path, damage):
    url = str(tmp_path / "partial.zarr")
    opened(url).write(0, values_of(0))
    # Of a second process; also a shard of which nothing counts is there.
    opened(url).write(2, {name: np.full_like(each, np.nan) for name, each in values_of(2).items()})
    assert np.isnan(opened(url).read("several")[8:]).all()
    for shard in (0, 2):
        path = object_of(url, "several", shard)
        whole = path.read_bytes()
        if damage == "lost":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(whole[:-2])
        else:
            path.write_bytes(bytes([*whole[:-6], whole[-6] ^ 4, *whole[-5:]]))
        with pytest.raises(StoreError, match="--overwrite begins anew"):
            opened(url).read("several")
        path.write_bytes(whole)
    np.testing.assert_array_equal(opened(url).read("several")[:4], values_of(0)["several"])
