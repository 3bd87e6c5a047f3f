"""Deleting a run: the store and what was derived from it go, and nothing else in the folder."""

import shutil
from uuid import uuid4

import pytest
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import StoreError
from pipeline.storage.files import open_filesystem, write_bytes
from pipeline.store.create import create_store
from pipeline.store.discard import discard_run
from pipeline.store.opening import (
    Found,
    Unfinished,
    find_store,
    open_store,
)
from pipeline.store.pending import pending_rows
from pipeline.store.run_folder import DERIVED_NAMES, store_url
from tests.support.stores import LAYOUT, RECORD, write


@pytest.fixture
def run(tmp_path):
    """Folder of a run with everything that jobs leave in it, and a file of the user's."""
    folder = tmp_path / "run"
    group = create_store(store_url(str(folder)), RECORD)
    for shard in range(3):
        write(group, shard)
    for name in DERIVED_NAMES:
        if "." in name and not name.endswith(".zarr"):
            (folder / name).write_bytes(b"table")
        else:
            (folder / name / "images").mkdir(parents=True)
            (folder / name / "images" / "a").write_bytes(b"picture")
    (folder / "notes.txt").write_text("mine")
    return folder


def test_the_run_goes_and_the_users_file_stays(run):
    discard_run(str(run))
    assert {path.name for path in run.iterdir()} == {"attributions.zarr", "notes.txt"}
    # What is left of the store is one whose creation was cut off, for `create_store` to replace.
    assert [path.name for path in (run / "attributions.zarr").iterdir()] == ["zarr.json"]
    assert not isinstance(find_store(store_url(str(run))), Found)
    create_store(store_url(str(run)), RECORD)
    assert pending_rows(open_store(store_url(str(run)))).n_rows == LAYOUT.n_rows


def test_a_run_that_has_derived_nothing_yet_goes_too(run):
    for name in DERIVED_NAMES:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    discard_run(str(run))
    assert not isinstance(find_store(store_url(str(run))), Found)


@pytest.mark.parametrize(("name", "sibling"), [("lr[1]", "lr1"), ("lr*", "lr-b"), ("l?", "lr")])
def test_a_run_that_its_name_would_match_as_a_pattern_stays(name, sibling):
    base = f"memory://{uuid4().hex}"
    for run in (name, sibling):
        opened = create_store(store_url(f"{base}/{run}"), RECORD)
        for shard in range(3):
            write(opened, shard)
        for derived in DERIVED_NAMES:
            write_bytes(f"{base}/{run}/{derived}/[1]", b"part")
    filesystem, path = open_filesystem(f"{base}/{sibling}")
    before = filesystem.find(path)
    discard_run(f"{base}/{name}")
    _, own = open_filesystem(f"{base}/{name}")
    assert filesystem.find(own) == [f"{own}/attributions.zarr/zarr.json"]
    assert isinstance(find_store(store_url(f"{base}/{name}")), Unfinished)
    # What is left of the store is cleared by its name, too.
    write_bytes(f"{base}/{name}/attributions.zarr/left", b"over")
    made = create_store(store_url(f"{base}/{name}"), RECORD)
    assert pending_rows(made).n_rows == LAYOUT.n_rows
    assert not filesystem.exists(f"{own}/attributions.zarr/left")
    assert filesystem.find(path) == before
    assert pending_rows(open_store(store_url(f"{base}/{sibling}"))).n_rows == 0


def test_where_no_run_is_nothing_is_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    discard_run(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_cut_off_on_the_way_it_leaves_a_store_that_is_not_resumed(run, monkeypatch):
    """A storage that refuses to delete after two arrays."""
    deleted = []
    remove = LocalFileSystem.rm

    def remove_two(self, path, *arguments, **options):
        if len(deleted) == 2:
            raise OSError("refused")
        deleted.append(path)
        return remove(self, path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "rm", remove_two)
        with pytest.raises(StoreError, match=f"can't delete the run in {run}: refused"):
            discard_run(str(run))
    assert not isinstance(find_store(store_url(str(run))), Found)
    # Given again, the same command ends it.
    discard_run(str(run))
    create_store(store_url(str(run)), RECORD)
    assert pending_rows(open_store(store_url(str(run)))).n_rows == LAYOUT.n_rows
