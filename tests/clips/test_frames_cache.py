"""Cached frames are those of decoding, or there are none: whatever becomes of clips and objects."""

import os
import random
import shutil
import zlib
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.clips.frames_cache import FramesCache, entry_dtype
from pipeline.clips.frames_folder import FramesIdentity, open_parts
from pipeline.clips.loader import ClipLoader
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import Views, ViewsConfig
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.status import Status
from pipeline.storage.retries import PATIENCE_VARIABLE
from tests.support import counting
from tests.support.clips import numbered_frames, write_mp4
from tests.support.object_storage import BUCKET, all_refused

SIZE = (32, 48)
N_CLIPS = 7
VIEWS = Views.of_config(
    ViewsConfig(clips=2),
    Sampling("strided", 4, stride=3),
    Preprocessing(shortest_edge=40, crop=SIZE),
)
N_ROWS = 2 * N_CLIPS
ARRAYS = ("frames", "entries")
SEED = int(date.today().strftime("%Y%m%d"))

pytestmark = pytest.mark.usefixtures("notes")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for clip in range(N_CLIPS):
        write_mp4(folder / f"{clip}.mp4", numbered_frames(20 + clip, height=64, width=80))
    return folder


@pytest.fixture
def clips(made, tmp_path):
    """A folder of clips that a test may change."""
    return shutil.copytree(made, tmp_path / "clips")


@pytest.fixture
def manifest(clips, tmp_path):
    url = str(tmp_path / "clips.parquet")
    write_manifest(build_manifest(layout="files", clips=str(clips)), url)
    return read_manifest(url)


@pytest.fixture
def cache(manifest, tmp_path):
    return cache_of(manifest, tmp_path)


def cache_of(manifest, folder, **changes):
    given = {"n_views": 2, "batch_size": 4, "max_bytes": 10**9} | changes
    identity = FramesIdentity.of_run(VIEWS, SIZE, "pyav", False)
    return open_parts(f"{folder}/cache", [identity], manifest, **given).get(identity)


def loaded(manifest, cache, rows=range(N_ROWS), **changes):
    """Columns of some rows, loaded in one go."""
    table = manifest.take(VIEWS.video(np.asarray(rows)))
    columns = {name: table[name].to_numpy() for name in table.column_names}
    loader = ClipLoader(
        **{
            "root": manifest.root,
            "views": VIEWS,
            "input_size": SIZE,
            "class_of_label": {},
            "decode": counting.DECODE,
            "cache": cache,
        }
        | changes
    )
    return loader(columns | {"row": np.asarray(rows)})


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert got[name].dtype == values.dtype, name
        np.testing.assert_array_equal(got[name], values, err_msg=name)


def objects_of(cache, name):
    return sorted(
        p for p in (cache_path(cache) / name).rglob("*") if p.name != "zarr.json" and p.is_file()
    )


def cache_path(cache):
    from pathlib import Path

    return Path(cache.url)


def test_with_the_cache_the_first_and_second_time_are_as_without(manifest, cache, notes):
    expected = loaded(manifest, None)
    assert notes.n_passes() == N_CLIPS
    assert_same(loaded(manifest, cache), expected)
    assert notes.n_passes() == N_CLIPS
    assert_same(loaded(manifest, cache), expected)
    assert notes.n_passes() == 0


@pytest.mark.parametrize("seed", [SEED, SEED + 1, SEED + 2])
def test_rows_may_come_in_any_parts(manifest, cache, notes, seed):
    print(f"seed {seed}")
    chosen = random.Random(seed)
    expected = loaded(manifest, None)
    for _ in range(6):
        rows = sorted(chosen.sample(range(N_ROWS), chosen.randint(1, N_ROWS)))
        got = loaded(manifest, cache, rows)
        assert_same(got, {name: values[rows] for name, values in expected.items()})
    loaded(manifest, cache)
    notes.taken()
    assert_same(loaded(manifest, cache), expected)
    assert notes.n_passes() == 0


def test_a_clip_that_was_written_again_is_decoded_again(clips, manifest, cache, notes):
    loaded(manifest, cache)
    notes.taken()
    clip = clips / "3.mp4"
    stat = clip.stat()
    data = bytearray(clip.read_bytes())
    # As long as before, at the same time as far as can be told, and with other content.
    data[data.index(b"mdat") + 2000] ^= 255
    clip.write_bytes(data)
    os.utime(clip, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert_same(loaded(manifest, cache), loaded(manifest, None))
    assert notes.n_passes() == 1 + N_CLIPS


def test_a_link_is_as_the_file_that_it_leads_to(clips, manifest, cache, notes, made, tmp_path):
    elsewhere = shutil.copytree(made, tmp_path / "elsewhere")
    for clip in clips.iterdir():
        clip.unlink()
        clip.symlink_to(elsewhere / clip.name)
    loaded(manifest, cache)
    shutil.copy(made / "5.mp4", elsewhere / "2.mp4")
    notes.taken()
    got = loaded(manifest, cache)
    assert notes.n_passes() == 1
    assert_same(got, loaded(manifest, None))


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("how", ["bit", "zeros", "cut", "lost", "swapped", "grown"])
def test_damaged_objects_are_not_believed_and_are_written_again(manifest, cache, notes, name, how):
    print(f"seed {SEED}")
    chosen = random.Random(f"{SEED} {name} {how}")
    expected = loaded(manifest, None)
    loaded(manifest, cache)
    notes.taken()
    damaged, other = chosen.sample(objects_of(cache, name)[:-1], 2)
    data = bytearray(damaged.read_bytes())
    if how == "bit":
        data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
    elif how == "zeros":
        start = chosen.randrange(len(data))
        data[start:] = bytes(len(data) - start)
        data[0] ^= 1
    elif how == "cut":
        del data[chosen.randrange(len(data)) :]
    elif how == "swapped":
        data = other.read_bytes()
    elif how == "grown":
        data += b"more"
    damaged.unlink() if how == "lost" else damaged.write_bytes(data)
    assert_same(loaded(manifest, cache), expected)
    assert 1 <= notes.n_passes() <= 3
    assert_same(loaded(manifest, cache), expected)
    assert notes.n_passes() == 0


def test_entries_with_checksums_of_before_are_believed(manifest, cache, notes):
    """CRC-32 was replaced by CRC-32C; what was cached with it isn't decoded again."""
    expected = loaded(manifest, None)
    loaded(manifest, cache)
    group = zarr.open_group(cache.url, mode="r+")
    frames, raw = group["frames"][:], group["entries"][:]
    entries = raw.view(entry_dtype(frames.shape[1]))[:, 0]
    of_now = entries["checksum"].copy()
    for entry, of_row in zip(entries, frames, strict=True):
        entry["checksum"] = zlib.crc32(of_row.tobytes(), zlib.crc32(entry.tobytes()[:-4]))
    assert (entries["checksum"] != of_now).all()
    group["entries"][:] = raw
    notes.taken()
    assert_same(loaded(manifest, cache), expected)
    assert notes.n_passes() == 0


@pytest.mark.parametrize("name", ARRAYS)
def test_metadata_that_are_damaged_cost_the_cache_alone(manifest, cache, notes, name, caplog):
    expected = loaded(manifest, None)
    (Path(cache.url) / name / "zarr.json").write_text("{}")
    assert_same(loaded(manifest, cache), expected)
    assert "can't be used" in caplog.text


def test_frames_of_one_write_and_entries_of_another_are_not_taken_for_one(manifest, cache, notes):
    """Two runs fill a part at once: the object that each had read lacks what the other wrote."""
    expected = loaded(manifest, None)
    frames = objects_of(cache, "frames")
    loaded(manifest, cache, range(2))
    (first,) = objects_of(cache, "frames")
    alone = first.read_bytes()
    loaded(manifest, cache, range(2, 4))
    first.write_bytes(alone)
    notes.taken()
    assert not frames
    assert_same(loaded(manifest, cache, range(4)), {n: v[:4] for n, v in expected.items()})
    assert notes.n_passes() == 1


def test_only_clips_that_are_ok_are_kept(clips, manifest, cache, notes):
    (clips / "1.mp4").write_bytes(b"")
    (clips / "2.mp4").unlink()
    (clips / "4.mp4").write_text("not a video")
    status = loaded(manifest, cache)["status"][::2]
    assert status.tolist()[:5] == [
        Status.OK,
        Status.EMPTY,
        Status.MISSING,
        Status.OK,
        Status.UNREADABLE,
    ]
    notes.taken()
    assert_same(loaded(manifest, cache), loaded(manifest, None))
    # Bytes that are there go to the decoder, which says what is wrong with them.
    assert notes.n_passes() == 2 + N_CLIPS - 1


def test_it_stops_filling_at_its_bound(manifest, tmp_path, notes):
    identity = FramesIdentity.of_run(VIEWS, SIZE, "pyav", False)
    cache = cache_of(manifest, tmp_path, max_bytes=identity.row_bytes * 7 - 1)
    assert cache.n_rows == 6
    expected = loaded(manifest, None)
    assert_same(loaded(manifest, cache), expected)
    stored = sum(
        path.stat().st_size for path in cache_path(cache).rglob("c/**/*") if path.is_file()
    )
    # An object is of as many rows as any other, those that there is no room for left empty.
    assert stored <= identity.row_bytes * 8
    notes.taken()
    assert_same(loaded(manifest, cache), expected)
    assert notes.n_passes() == N_CLIPS - 3
    behind = range(8, 12)
    assert_same(loaded(manifest, cache, behind), {n: v[behind] for n, v in expected.items()})


def test_a_storage_that_refuses_is_no_fault_of_the_run(manifest, notes, s3, monkeypatch, caplog):
    expected = loaded(manifest, None)
    cache = cache_of(manifest, f"s3://{BUCKET}/away")
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.1")
    s3.plan = all_refused
    assert_same(loaded(manifest, cache), expected)
    # It was asked once: each time takes a minute.
    assert caplog.text.count("frames are neither read from nor written to") == 1


def test_a_part_that_is_read_alone_is_left_as_it_is(manifest, cache, notes):
    loaded(manifest, cache, range(4))
    before = [path.read_bytes() for path in objects_of(cache, "frames")]
    reading = FramesCache(cache.url, cache.n_rows, cache.rows_per_object, fills=False)
    assert_same(loaded(manifest, reading), loaded(manifest, None))
    assert [path.read_bytes() for path in objects_of(cache, "frames")] == before


def test_a_user_reads_frames_by_row(manifest, cache):
    xarray = pytest.importorskip("xarray")
    expected = loaded(manifest, cache)
    frames = xarray.open_zarr(cache.url, consolidated=False)["frames"]
    assert frames.dims == ("clip", "frame", "y", "x", "channel")
    np.testing.assert_array_equal(frames[5], expected["frames"][5])
