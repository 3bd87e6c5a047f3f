"""Which part of a cache a run gets: by what decides its frames, by its rows, and within a bound."""

from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from pipeline.clips.frames_folder import (
    FramesIdentity,
    find_part,
    forget_videos,
    is_there,
    open_parts,
    remove_cache,
)
from pipeline.clips.frames_forgotten import FORGOTTEN_NAME
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import View, Views
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.errors import ConfigError, StorageError

SAMPLING = Sampling("uniform", 4)
WHOLE = Preprocessing(shortest_edge=40, crop=(32, 48))
ROOM = 10**9


def identity_of(sampling=SAMPLING, preprocessing=WHOLE, decoder="pyav", segments=False):
    views = Views((View(sampling, preprocessing),))
    return FramesIdentity.of_run(views, preprocessing.crop, decoder, segments)


IDENTITY = identity_of()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clips").mkdir()
    return tmp_path


def manifest_of(folder, n_clips, name="clips.parquet"):
    for clip in range(n_clips):
        (folder / "clips" / f"{clip:02}.mp4").write_bytes(b"")
    listing = folder / "list.txt"
    listing.write_text("\n".join(f"{clip:02}.mp4" for clip in range(n_clips)))
    table = build_manifest(layout="list", clips=str(folder / "clips"), annotations=str(listing))
    write_manifest(table, str(folder / name))
    return read_manifest(str(folder / name))


def parts_of(folder, manifest, *identities, max_bytes=ROOM, n_views=1, batch_size=4):
    return open_parts(
        str(folder / "cache"),
        identities or (IDENTITY,),
        manifest,
        n_views=n_views,
        batch_size=batch_size,
        max_bytes=max_bytes,
    )


@pytest.mark.parametrize(
    "other",
    [
        identity_of(Sampling("uniform", 5)),
        identity_of(replace(SAMPLING, clock="time")),
        identity_of(preprocessing=replace(WHOLE, shortest_edge=41)),
        identity_of(preprocessing=replace(WHOLE, resample=3)),
        identity_of(preprocessing=replace(WHOLE, crop_position=0.0)),
        identity_of(decoder="decord"),
        identity_of(segments=True),
    ],
)
def test_other_frames_are_in_another_part(folder, other):
    manifest = manifest_of(folder, 3)
    assert other != IDENTITY
    parts = parts_of(folder, manifest, IDENTITY, other)
    assert parts[IDENTITY].url != parts[other].url


def test_values_that_are_computed_from_the_pixels_make_no_other_part():
    scaled = replace(WHOLE, image_mean=(0.4, 0.5, 0.6), rescale_factor=1 / 127.5, offset=True)
    assert identity_of(preprocessing=scaled) == IDENTITY


def test_the_same_run_finds_its_part_again_and_another_manifest_does_not(folder):
    manifest = manifest_of(folder, 6)
    first = parts_of(folder, manifest)[IDENTITY]
    assert first.n_rows == 6
    assert parts_of(folder, manifest)[IDENTITY] == first
    assert parts_of(folder, manifest, batch_size=2)[IDENTITY] == first
    assert find_part(str(folder / "cache"), IDENTITY, manifest) == replace(first, fills=False)
    other = manifest_of(folder, 5, "other.parquet")
    assert find_part(str(folder / "cache"), IDENTITY, other) is None
    assert parts_of(folder, other)[IDENTITY].url != first.url


def test_a_manifest_that_rows_were_added_to_goes_on_with_its_part(folder):
    first = parts_of(folder, manifest_of(folder, 6))[IDENTITY]
    longer = manifest_of(folder, 9)
    part = parts_of(folder, longer)[IDENTITY]
    assert part == replace(first, n_rows=9)
    assert find_part(str(folder / "cache"), IDENTITY, longer) == replace(part, fills=False)


KEYS = np.arange(1, 12 * 16 + 1, dtype=np.uint8).reshape(12, 16)


def filled(part, rows, seed=0, clips=None):
    """Write frames of some rows: each of a clip of its own, by default that of its number."""
    rows = np.asarray(rows)
    keys = KEYS[rows if clips is None else clips]
    columns = {
        "row": rows,
        "frames": np.random.default_rng(seed).integers(1, 256, (len(rows), 4, 32, 48, 3), np.uint8),
        "frame_index": np.zeros((len(rows), 4), np.int32),
        "frame_time": np.zeros((len(rows), 4)),
        "clip_digest": keys,
    }
    part.write(columns, keys, np.ones(len(rows), np.bool_))


def held(part, n_rows):
    return np.flatnonzero(part.holds(np.arange(n_rows), KEYS[:n_rows])).tolist()


@pytest.mark.parametrize("release", ["this", "earlier"])
def test_a_run_over_the_rows_of_before_has_the_part_that_was_enlarged(folder, release):
    shorter, longer = manifest_of(folder, 6, "a.parquet"), manifest_of(folder, 9, "b.parquet")
    longest = manifest_of(folder, 11, "c.parquet")
    parts_of(folder, shorter)
    for manifest in (longer, longest):
        part = parts_of(folder, manifest)[IDENTITY]
    filled(part, range(11))
    if release == "earlier":
        del zarr.open_group(part.url, mode="r+").attrs["earlier"]
    for manifest in (shorter, longest, *([longer] if release == "this" else [])):
        assert find_part(str(folder / "cache"), IDENTITY, manifest) == replace(part, fills=False)
        assert parts_of(folder, manifest) == {IDENTITY: part}
        assert held(part, 11) == [*range(11)]


def test_a_run_over_fewer_rows_may_give_an_enlarged_part_more_room(folder):
    shorter, longer = manifest_of(folder, 6, "a.parquet"), manifest_of(folder, 9, "b.parquet")
    parts_of(folder, shorter, max_bytes=IDENTITY.row_bytes * 2)
    part = parts_of(folder, longer, max_bytes=IDENTITY.row_bytes * 3)[IDENTITY]
    assert part.n_rows == 3
    assert parts_of(folder, shorter)[IDENTITY] == replace(part, n_rows=6)
    assert parts_of(folder, longer)[IDENTITY] == replace(part, n_rows=9)


def test_a_part_that_is_made_is_never_written_over_one_that_can_be_opened(folder):
    manifest = manifest_of(folder, 3)
    part = parts_of(folder, manifest)[IDENTITY]
    filled(part, range(3))
    attributes = zarr.open_group(part.url, mode="r+").attrs
    # Of a later release.
    attributes["schema"] = {"name": "staa-frames", "version": 2}
    other = parts_of(folder, manifest)[IDENTITY]
    assert other.url == part.url.replace(".zarr", "-2.zarr")
    assert parts_of(folder, manifest)[IDENTITY] == other
    assert held(part, 3) == [0, 1, 2]


def place(*videos):
    return np.array(videos, np.int64)


def test_a_row_that_is_erased_leaves_its_part_and_is_counted_once(folder):
    manifest, url = manifest_of(folder, 8), str(folder / "cache")
    part = parts_of(folder, manifest)[IDENTITY]
    filled(part, range(6))
    assert forget_videos(url, manifest, place(2, 7), {KEYS[5].tobytes()}) == 2
    group = zarr.open_group(part.url, mode="r")
    assert np.flatnonzero(group["frames"][:].any(axis=(1, 2, 3, 4))).tolist() == [0, 1, 3, 4]
    assert held(part, 8) == [0, 1, 3, 4]
    assert forget_videos(url, manifest, place(2, 7), {KEYS[5].tobytes()}) == 0


def test_a_clip_is_found_in_other_parts_by_what_its_own_place_holds(folder):
    manifest, url = manifest_of(folder, 4), str(folder / "cache")
    own = parts_of(folder, manifest)[IDENTITY]
    filled(own, range(4))
    reverse = pq.read_table(manifest.url).take([3, 2, 1, 0])
    write_manifest(reverse, str(folder / "reverse.parquet"))
    other = parts_of(folder, read_manifest(str(folder / "reverse.parquet")))[IDENTITY]
    filled(other, range(4), clips=[3, 2, 1, 0])
    assert forget_videos(url, manifest, place(1), set()) == 2
    assert held(own, 4) == [0, 2, 3]
    frames = zarr.open_group(other.url, mode="r")["frames"][:]
    assert np.flatnonzero(frames.any(axis=(1, 2, 3, 4))).tolist() == [0, 1, 3]


class MeanwhileErased(dict):
    """Columns during whose writing a command erases a row, at the n-th time that frames are taken.

    It is by then that a writer has read the object that it is about to write.
    """

    def __init__(self, columns, erase, nth):
        super().__init__(columns)
        self.erase, self.left = erase, nth

    def __getitem__(self, name):
        if name == "frames":
            self.left -= 1
            if not self.left:
                self.erase()
        return super().__getitem__(name)


@pytest.mark.parametrize("by", ["place", "digest", "its own row"])
def test_a_writer_brings_back_nothing_that_was_erased_while_it_wrote(folder, by):
    manifest, url = manifest_of(folder, 8), str(folder / "cache")
    part = parts_of(folder, manifest)[IDENTITY]
    filled(part, range(3))
    counts = []

    def erase():
        gone = 3 if by == "its own row" else 1
        known = {KEYS[1].tobytes()} if by == "digest" else set()
        counts.append(forget_videos(url, manifest, place(*(() if known else (gone,))), known))

    row = place(3)
    columns = {
        "row": row,
        "frames": np.full((1, 4, 32, 48, 3), 9, np.uint8),
        "frame_index": np.zeros((1, 4), np.int32),
        "frame_time": np.zeros((1, 4)),
        "clip_digest": KEYS[row],
    }
    # For the checksum, for the whole object, and into that which was read.
    part.write(MeanwhileErased(columns, erase, 3), KEYS[row], np.ones(1, np.bool_))
    assert counts == [0 if by == "its own row" else 1]
    kept = [0, 1, 2] if by == "its own row" else [0, 2, 3]
    assert held(part, 8) == kept
    frames = zarr.open_group(part.url, mode="r")["frames"][:]
    assert np.flatnonzero(frames.any(axis=(1, 2, 3, 4))).tolist() == kept


def test_what_was_erased_is_not_kept_again_and_not_named(folder):
    manifest, url = manifest_of(folder, 8), str(folder / "cache")
    part = parts_of(folder, manifest)[IDENTITY]
    filled(part, range(4))
    forget_videos(url, manifest, place(1), {KEYS[6].tobytes()})
    filled(part, range(8), seed=1)
    assert held(part, 8) == [0, 2, 3, 4, 5, 7]
    note = (folder / "cache" / FORGOTTEN_NAME).read_text()
    for row in (1, 6):
        assert KEYS[row].tobytes().hex() not in note
        assert f"{row:02}.mp4" not in note


def test_what_an_earlier_release_wrote_back_is_erased_by_the_next_command(folder):
    manifest, url = manifest_of(folder, 4), str(folder / "cache")
    part = parts_of(folder, manifest)[IDENTITY]
    filled(part, range(4))
    objects = {path: path.read_bytes() for path in Path(part.url).rglob("c/**/*") if path.is_file()}
    assert forget_videos(url, manifest, place(1), set()) == 1
    for path, data in objects.items():
        path.write_bytes(data)
    assert held(part, 4) == [0, 1, 2, 3]
    assert forget_videos(url, None, place(), set()) == 1
    assert held(part, 4) == [0, 2, 3]


def test_frames_are_erased_where_plain_files_and_damaged_objects_lie(folder):
    manifest, url = manifest_of(folder, 8), str(folder / "cache")
    part = parts_of(folder, manifest)[IDENTITY]
    filled(part, range(8))
    (folder / "cache" / "notes.txt").write_text("mine")
    first = Path(part.url) / "frames" / "c" / "0"
    (damaged,) = (path for path in first.rglob("*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    forget_videos(url, manifest, place(1), set())
    frames = zarr.open_group(part.url, mode="r")["frames"][:]
    assert np.flatnonzero(frames.any(axis=(1, 2, 3, 4))).tolist() == [4, 5, 6, 7]


def test_an_object_of_damaged_entries_is_erased_and_stops_nothing(folder):
    """Whose frames its rows have can't be told any more."""
    manifest, url = manifest_of(folder, 12), str(folder / "cache")
    part = parts_of(folder, manifest)[IDENTITY]
    filled(part, range(12))
    (damaged,) = (path for path in (Path(part.url) / "entries/c/1").rglob("*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    forget_videos(url, manifest, place(1), set())
    frames = zarr.open_group(part.url, mode="r")["frames"][:]
    assert np.flatnonzero(frames.any(axis=(1, 2, 3, 4))).tolist() == [0, 2, 3, 8, 9, 10, 11]
    assert forget_videos(url, manifest, place(1), set()) == 0


def test_a_damaged_note_stops_what_could_bring_frames_back(folder, caplog):
    manifest, url = manifest_of(folder, 4), str(folder / "cache")
    part = parts_of(folder, manifest)[IDENTITY]
    (folder / "cache" / FORGOTTEN_NAME).write_text("{")
    with pytest.raises(StorageError, match=r"forgotten\.json says what must stay out"):
        forget_videos(url, manifest, place(1), set())
    filled(part, range(4))
    assert "must stay out of the cache" in caplog.text
    frames = zarr.open_group(part.url, mode="r")["frames"][:]
    assert not frames.any()


def test_nothing_is_written_where_there_is_no_cache(folder):
    url = str(folder / "cache")
    assert not is_there(url)
    assert forget_videos(url, manifest_of(folder, 3), place(1), {KEYS[0].tobytes()}) == 0
    assert not (folder / "cache").exists()
    (folder / "cache").mkdir()
    assert is_there(url)


def test_there_is_no_part_where_there_is_no_cache(folder):
    assert find_part(str(folder / "cache"), IDENTITY, manifest_of(folder, 3)) is None
    assert not (folder / "cache").exists()


def test_runs_of_a_job_keep_the_same_rows_within_the_bound(folder):
    larger = identity_of(Sampling("uniform", 8))
    manifest = manifest_of(folder, 20)
    both = IDENTITY.row_bytes + larger.row_bytes
    parts = parts_of(folder, manifest, IDENTITY, larger, IDENTITY, max_bytes=8 * both - 1)
    assert {part.n_rows for part in parts.values()} == {7}
    assert len(parts) == 2


def test_what_others_have_room_for_counts(folder):
    first = manifest_of(folder, 10)
    second = manifest_of(folder, 4, "second.parquet")
    parts_of(folder, first, max_bytes=IDENTITY.row_bytes * 12)
    assert parts_of(folder, second, max_bytes=IDENTITY.row_bytes * 12)[IDENTITY].n_rows == 2
    # No part gets smaller, and there is none where there is no room.
    third = manifest_of(folder, 3, "third.parquet")
    assert parts_of(folder, third, max_bytes=IDENTITY.row_bytes * 12) == {}
    assert parts_of(folder, first, max_bytes=0)[IDENTITY].n_rows == 10
    assert parts_of(folder, second, max_bytes=ROOM)[IDENTITY].n_rows == 4


@pytest.mark.parametrize("n_views", [1, 3])
def test_rows_are_those_of_all_views(folder, n_views):
    part = parts_of(folder, manifest_of(folder, 5), n_views=n_views)[IDENTITY]
    assert part.n_rows == 5 * n_views


@pytest.mark.parametrize(("batch_size", "rows"), [(1, 1), (8, 8), (64, 32), (100, 25)])
def test_an_object_is_a_share_of_a_batch_and_small(folder, batch_size, rows):
    large = identity_of(Sampling("uniform", 16), Preprocessing(shortest_edge=100, crop=(96, 96)))
    manifest = manifest_of(folder, 3)
    part = parts_of(folder, manifest, large, batch_size=batch_size)[large]
    assert part.rows_per_object == rows
    assert rows * large.row_bytes <= 16_000_000


@pytest.mark.parametrize("damage", ["", "no json", "{}"])
@pytest.mark.parametrize("of", ["zarr.json", "frames/zarr.json", "entries/zarr.json"])
def test_a_part_that_is_damaged_is_made_again(folder, of, damage):
    manifest = manifest_of(folder, 3)
    part = parts_of(folder, manifest)[IDENTITY]
    (Path(part.url) / of).write_text(damage)
    assert_is_made_again(folder, manifest, part)


@pytest.mark.parametrize("name", ["frames", "entries"])
def test_a_part_that_has_lost_an_array_is_made_again(folder, name):
    manifest = manifest_of(folder, 3)
    part = parts_of(folder, manifest)[IDENTITY]
    (Path(part.url) / name / "zarr.json").unlink()
    assert_is_made_again(folder, manifest, part)


@pytest.mark.parametrize("damage", [None, "", "no json"])
@pytest.mark.parametrize("of", ["zarr.json", "frames/zarr.json", "entries/zarr.json"])
def test_a_part_that_can_not_be_read_is_named_when_some_frames_are_to_go(folder, of, damage):
    manifest, url = manifest_of(folder, 3), str(folder / "cache")
    part = parts_of(folder, manifest)[IDENTITY]
    filled(part, range(3))
    metadata = Path(part.url) / of
    metadata.unlink()
    if damage is not None:
        metadata.write_text(damage)
    with pytest.raises(StorageError, match=r"frames-.*\.zarr can't be read, .* delete it"):
        forget_videos(url, manifest, place(1), set())
    remove_cache(part.url)
    assert forget_videos(url, manifest, place(1), set()) == 0


def test_a_part_that_is_being_made_is_passed_over_when_some_frames_are_to_go(folder):
    manifest, url = manifest_of(folder, 3), str(folder / "cache")
    part = parts_of(folder, manifest)[IDENTITY]
    (Path(part.url) / "zarr.json").unlink()
    assert forget_videos(url, manifest, place(1), set()) == 0


def test_a_part_that_has_lost_entries_is_made_again(folder):
    manifest = manifest_of(folder, 3)
    part = parts_of(folder, manifest)[IDENTITY]
    entries = zarr.open_array(f"{part.url}/entries", mode="r+")
    entries.resize((2, entries.shape[1]))
    assert_is_made_again(folder, manifest, part)


def assert_is_made_again(folder, manifest, part):
    assert find_part(str(folder / "cache"), IDENTITY, manifest) is None
    assert parts_of(folder, manifest)[IDENTITY] == part
    assert find_part(str(folder / "cache"), IDENTITY, manifest) == replace(part, fills=False)


def test_other_things_in_the_folder_are_left_alone(folder):
    (folder / "cache").mkdir()
    (folder / "cache" / "notes.txt").write_text("mine")
    parts_of(folder, manifest_of(folder, 3))
    assert (folder / "cache" / "notes.txt").read_text() == "mine"


def test_a_cache_that_can_not_be_written_is_named(folder):
    (folder / "cache").write_text("a file")
    with pytest.raises(ConfigError, match=r"frames_cache: can.t write .*cache"):
        parts_of(folder, manifest_of(folder, 3))
    with pytest.raises(ConfigError, match="gopher"):
        open_parts(
            "gopher://host/cache",
            [IDENTITY],
            manifest_of(folder, 3),
            n_views=1,
            batch_size=1,
            max_bytes=ROOM,
        )


def test_a_cache_is_removed_once_and_then_not_there(folder):
    parts_of(folder, manifest_of(folder, 3))
    remove_cache(str(folder / "cache"))
    assert not (folder / "cache").exists()
    remove_cache(str(folder / "cache"))


def test_the_name_of_a_removed_cache_is_no_pattern():
    filesystem = fsspec.filesystem("memory")
    for name in ("lr[1]", "lr1"):
        filesystem.pipe(f"/caches/{name}/frames.zarr/zarr.json", b"{}")
    remove_cache("memory://caches/lr[1]")
    assert filesystem.find("/caches") == ["/caches/lr1/frames.zarr/zarr.json"]


def test_the_bound_counts_an_entry_too():
    frames = np.zeros((4, 32, 48, 3), np.uint8)
    assert frames.nbytes < IDENTITY.row_bytes < frames.nbytes + 100
