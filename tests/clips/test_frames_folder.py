"""Which part of a cache a run gets: by what decides its frames, by its rows, and within a bound."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.clips.frames_folder import FramesIdentity, find_part, open_parts, remove_cache
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import View, Views
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.errors import ConfigError

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


@pytest.mark.parametrize("damage", ["empty", "text", "no arrays"])
def test_a_part_that_is_damaged_is_made_again(folder, damage):
    manifest = manifest_of(folder, 3)
    part = parts_of(folder, manifest)[IDENTITY]
    metadata = Path(part.url) / "zarr.json"
    if damage == "no arrays":
        (Path(part.url) / "frames" / "zarr.json").unlink()
    else:
        metadata.write_text("" if damage == "empty" else "no json")
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


def test_the_bound_counts_an_entry_too():
    frames = np.zeros((4, 32, 48, 3), np.uint8)
    assert frames.nbytes < IDENTITY.row_bytes < frames.nbytes + 100
