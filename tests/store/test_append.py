"""A store takes in rows behind its own: what is stored stays, what was cut off is finished."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.attribution.method import Method
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import ViewsConfig
from pipeline.dataset.manifest import METADATA_KEYS, SCHEMA, read_manifest, write_manifest
from pipeline.errors import RunMismatchError
from pipeline.status import Status
from pipeline.store.append import append_rows, check_appended, finish_append
from pipeline.store.create import create_store
from pipeline.store.opening import open_store
from pipeline.store.pending import pending_rows, read_status
from tests.support.records import identity_of, record_of
from tests.support.stores import EXPECTED, LAYOUT, objects, write

GROWN = record_of(replace(LAYOUT, n_rows=19), identity=identity_of(LAYOUT, manifest="longer"))


@pytest.fixture
def full(group):
    for shard in range(3):
        write(group, shard)
    return group


def manifest_of(folder, *names, name="m"):
    """A manifest of files without labels."""
    metadata = dict(zip(METADATA_KEYS, ("1", "/clips", "files"), strict=True))
    rows = [{"video_id": name, "path": f"{name}.mp4"} for name in names]
    url = str(folder / f"{name}.parquet")
    write_manifest(pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata)), url)
    return read_manifest(url)


def test_what_is_stored_is_not_touched_and_the_new_rows_are_pending(full, url):
    """Also not in the shard that is not full, of which the new rows are pending."""
    before = objects(url)
    columns = {name: full.array(name)[:] for name in EXPECTED}
    append_rows(full, GROWN)
    assert objects(url) == before
    grown = open_store(url)
    assert grown.record == GROWN
    for name, values in columns.items():
        assert grown.array(name).shape[0] == 19
        np.testing.assert_array_equal(grown.array(name)[:10], values, err_msg=name)
    assert (grown.array("status")[10:] == Status.PENDING).all()
    assert np.isnan(grown.array("temporal")[10:]).all()
    assert set(grown.array("message")[10:]) == {""}
    assert pending_rows(grown).shards.tolist() == [2, 3, 4]


def test_who_opened_it_before_reads_the_rows_that_there_were(full, url):
    """Also arrays that are opened only now: a session grows while it is looked at."""
    before, expected = open_store(url), read_status(open_store(url))
    columns = {name: full.array(name)[:] for name in EXPECTED}
    append_rows(full, GROWN)
    np.testing.assert_array_equal(read_status(before), expected)
    for name, values in columns.items():
        np.testing.assert_array_equal(before.array(name)[:10], values, err_msg=name)


@pytest.mark.parametrize("n_enlarged", range(len(EXPECTED)))
def test_an_enlarging_that_was_cut_off_anywhere_is_finished(full, url, n_enlarged):
    full.group.update_attributes(GROWN.to_attributes())
    for name in sorted(EXPECTED.keys() - {"status"})[:n_enlarged]:
        full.array(name).resize((19, *full.array(name).shape[1:]))
    assert (read_status(open_store(url))[10:] == Status.PENDING).all()
    finish_append(open_store(url, mode="r+"))
    grown = open_store(url)
    assert {grown.array(name).shape[0] for name in EXPECTED} == {19}
    assert (grown.array("status")[:10] != Status.PENDING).all()
    # A second time there is nothing to do, and nothing is done.
    finish_append(open_store(url))


def test_status_is_enlarged_last(full, url, monkeypatch):
    """It is what is looked at, so it must not be there before the others are."""
    order = []
    kind = type(full.array("status"))
    resize = kind.resize

    def noted(self, shape):
        order.append(self.basename)
        resize(self, shape)

    monkeypatch.setattr(kind, "resize", noted)
    append_rows(full, GROWN)
    assert order[-1] == "status"
    assert sorted(order) == sorted(EXPECTED)


@pytest.fixture
def run(tmp_path):
    """Store of a run over three clips, and the run's identity."""
    manifest = manifest_of(tmp_path, "a", "b", "c")
    identity = identity_of(
        LAYOUT,
        manifest=manifest.digest,
        views=ViewsConfig(clips=2),
        sampling=Sampling("strided", 8, 2),
    )
    record = record_of(replace(LAYOUT, n_rows=6), identity=identity)
    return create_store(str(tmp_path / "run.zarr"), record), identity


def test_a_manifest_that_begins_with_the_runs_rows_may_be_taken_in(run, tmp_path):
    group, identity = run
    longer = manifest_of(tmp_path, "a", "b", "c", "d", name="longer")
    check_appended(group, longer, identity.model_copy(update={"manifest": longer.digest}))
    check_appended(group, manifest_of(tmp_path, "a", "b", "c"), identity)


@pytest.mark.parametrize("names", ["ab", "abd", "bacd", "xabc"])
def test_any_other_manifest_is_refused(run, tmp_path, names):
    group, identity = run
    other = manifest_of(tmp_path, *names, name="other")
    with pytest.raises(RunMismatchError, match=r"append: .*doesn't begin with the 3 rows"):
        check_appended(group, other, identity.model_copy(update={"manifest": other.digest}))


def test_another_method_is_refused_as_when_a_run_goes_on(run, tmp_path):
    group, identity = run
    longer = manifest_of(tmp_path, "a", "b", "c", "d", name="longer")
    other = identity.model_copy(update={"method": Method(name="staa-paper", layers=(0,))})
    with pytest.raises(RunMismatchError, match=r"method\.layers is \[11\] there and \[0\] here"):
        check_appended(group, longer, other)
