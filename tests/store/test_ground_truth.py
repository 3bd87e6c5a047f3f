"""Ground truth through a model's eyes: the frames that it sees, cut into its patches."""

import random
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pipeline.attribution.method import Method
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import ViewsConfig
from pipeline.errors import ConfigError, StoreError
from pipeline.store.ground_truth import (
    GridTruth,
    MaskTruth,
    Truth,
    open_ground_truth,
    write_ground_truth,
)
from pipeline.synthetic.config import SynthesizeConfig
from pipeline.synthetic.dataset import write_dataset
from pipeline.synthetic.rendering import actor_mask, rival_mask
from tests.analysis.stores import random_columns, small_layout, write_run
from tests.support.http_server import served
from tests.support.records import identity_of

ALWAYS = (-1.0, 1e6)


def truth_of(masks, window=ALWAYS, fps=10.0, n_frames=None):
    """Ground truth of one clip, ``clip0``."""
    return MaskTruth(
        masks={"actor": masks[None]},
        index_of={"clip0": 0},
        windows=np.array([window], float),
        fps=np.array([fps]),
        n_frames=np.array([len(masks) if n_frames is None else n_frames], np.int32),
    )


def tent_weights(n_in, n_out):
    """Bilinear resizing as a matrix: a tent over each output pixel, as wide as it has to be."""
    scale = n_in / n_out
    weights = np.zeros((n_out, n_in))
    for i in range(n_out):
        for j in range(n_in):
            weights[i, j] = max(0.0, 1 - abs(j + 0.5 - (i + 0.5) * scale) / max(scale, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


def slow_patches(masks, frames, window, fps, side, grid):
    """One patch after the other, for a frame's central square of ``side`` pixels."""
    n_times, rows, columns = grid
    height, width = masks.shape[1:]
    resized = side, int(side * width / height)
    left = (resized[1] - side) // 2
    shares = np.zeros(grid)
    per_time = len(frames) // n_times
    for position, frame in enumerate(frames):
        if not window[0] <= frame / fps <= window[1]:
            continue
        picture = tent_weights(height, resized[0]) @ masks[frame]
        picture = (picture @ tent_weights(width, resized[1]).T)[:, left : left + side]
        for y in range(side):
            for x in range(side):
                place = position // per_time, y * rows // side, x * columns // side
                shares[place] += picture[y, x] * rows * columns / side**2 / per_time
    return shares


@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(12, 40),
    wider_by=st.integers(0, 30),
    grid=st.sampled_from([(2, 2, 2), (4, 3, 4), (4, 1, 6), (1, 2, 3)]),
    edges=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_patches_equal_a_slow_reference(seed, height, wider_by, grid, edges):
    rng = np.random.default_rng(seed)
    masks = np.zeros((20, height, height + wider_by), bool)
    for mask in masks:
        top, left = rng.integers(0, height, 2)
        mask[top : top + 12, left : left + 15] = True
    frames = np.sort(rng.choice(20, 4, replace=False)).astype(np.int32)
    window = 2 * min(edges), 2 * max(edges)
    preprocessing = Preprocessing(shortest_edge=12, crop=(12, 12))
    patches = truth_of(masks, window).patches("clip0", frames, preprocessing, grid)
    assert (patches.dtype, patches.shape) == (np.float32, grid)
    expected = slow_patches(masks, frames, window, 10.0, 12, grid)
    np.testing.assert_allclose(patches, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 96), (256, 340), (90, 90), (48, 64)])
def test_a_mask_of_everything_covers_every_patch(size):
    truth = truth_of(np.ones((8, *size), bool))
    preprocessing = Preprocessing(shortest_edge=56, crop=(56, 56))
    patches = truth.patches("clip0", np.arange(8), preprocessing, (4, 7, 7))
    assert (patches == 1).all()


def test_outside_the_window_nothing_is_covered_and_its_edges_are_inside():
    truth = truth_of(np.ones((10, 8, 8), bool), window=(0.3, 0.6))
    preprocessing = Preprocessing(shortest_edge=8, crop=(8, 8))
    patches = truth.patches("clip0", np.arange(10), preprocessing, (10, 2, 2))
    covered = patches.all(axis=(1, 2))
    assert np.flatnonzero(covered).tolist() == [3, 4, 5, 6]
    assert (patches[~covered] == 0).all()


def test_a_tubelet_of_two_frames_has_the_mean_of_both():
    masks = np.zeros((6, 4, 4), bool)
    masks[1], masks[4, :2] = True, True
    preprocessing = Preprocessing(shortest_edge=4, crop=(4, 4))
    patches = truth_of(masks).patches("clip0", np.array([0, 1, 4, 5]), preprocessing, (2, 2, 1))
    assert patches[:, :, 0].tolist() == [[0.5, 0.5], [0.5, 0]]


def test_frames_are_taken_by_their_number_and_not_by_their_order():
    masks = np.zeros((30, 4, 4), bool)
    masks[7] = masks[23] = True
    preprocessing = Preprocessing(shortest_edge=4, crop=(4, 4))
    for frames in ([7, 23], [23, 7], [7, 8], [0, 29]):
        patches = truth_of(masks).patches("clip0", np.array(frames), preprocessing, (2, 1, 1))
        assert patches.ravel().tolist() == [frame in (7, 23) for frame in frames]


@pytest.mark.parametrize("frames", [[-1, -1], [0, 10], [-1, 3]])
def test_frames_that_a_clip_does_not_have_are_named(frames):
    # The masks are padded to the longest clip's frames.
    truth = truth_of(np.ones((20, 4, 4), bool), n_frames=10)
    preprocessing = Preprocessing(shortest_edge=4, crop=(4, 4))
    with pytest.raises(StoreError, match=rf"'clip0' .* frames {frames[0]} to {frames[1]}.* has 10"):
        truth.patches("clip0", np.array(frames), preprocessing, (2, 1, 1))


def test_a_clip_that_is_not_there_is_named():
    truth = truth_of(np.ones((2, 4, 4), bool))
    with pytest.raises(StoreError, match="'clip1' of the run has no ground truth"):
        truth.patches("clip1", np.array([0]), Preprocessing(), (1, 1, 1))


def test_a_dataset_has_the_ground_truth_of_its_scenes(tmp_path):
    config = SynthesizeConfig(
        out=str(tmp_path), n_clips=4, width=96, height=64, fps=8, min_duration_s=1, n_workers=1
    )
    clips = list(write_dataset(config))
    truth = open_ground_truth(f"file://{tmp_path}/ground_truth.zarr")
    # The model sees the central square of the full height: no pixel is resized.
    preprocessing = Preprocessing(shortest_edge=64, crop=(64, 64))
    for clip in reversed(clips):
        scene = clip.scene
        frames = Sampling("uniform", 8).indices(n_frames=scene.n_frames, fps=8)
        patches = truth.patches(clip.video_id, frames, preprocessing, (8, 64, 64))
        for frame, patch in zip(frames.tolist(), patches, strict=True):
            acts = scene.window[0] <= frame / 8 <= scene.window[1]
            assert np.array_equal(patch, actor_mask(scene, frame)[:, 16:80] & acts)
        assert patches.any()


def test_a_store_that_is_no_ground_truth_is_named(tmp_path):
    run = write_run(tmp_path / "run", small_layout(2), random_columns(small_layout(2)))
    zarr.create_group(tmp_path / "empty.zarr")
    (tmp_path / "file").write_text("notes")
    places = [f"{run}/attributions.zarr", *(tmp_path / n for n in ("empty.zarr", "file", "none"))]
    for url in (*map(str, places), "gopher://host/truth.zarr", "memory://none/truth.zarr"):
        with pytest.raises(StoreError, match=f"no ground truth at {url}"):
            open_ground_truth(url)


GRID = (2, 3, 5)
KINDS = ("person", "hand")


def written(url, n_rows=6, seed=0):
    rng = np.random.default_rng(seed)
    video_ids = np.array([f"clip{row}" for row in range(n_rows)], object)
    covered = rng.random((2, n_rows, *GRID)).astype(np.float16).astype(np.float32)
    known = rng.random((2, n_rows, 2)) < 0.5
    rows = np.array([4, 1, 2])
    blocks = [
        (rows, kind, Truth(covered[index, rows], known[index, rows]))
        for index, kind in enumerate(KINDS)
    ]
    write_ground_truth(url, KINDS, video_ids, GRID, blocks, {"annotations": "boxes.csv"})
    return rows, covered, known


def read(truth, rows, kind=None, grid=GRID, names=None):
    names = [f"clip{row}" for row in rows] if names is None else names
    return truth.of_rows(np.array(rows), np.array(names, object), np.empty(0), None, grid, kind)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_what_is_written_on_a_grid_is_read_by_row_and_kind(tmp_path, prefix):
    url = f"{prefix}{tmp_path}/truth.zarr"
    rows, covered, known = written(url)
    truth = open_ground_truth(url)
    assert isinstance(truth, GridTruth)
    assert truth.kinds == KINDS
    for index, kind in enumerate(KINDS):
        for some in ([2, 4], [4, 1], [1]):
            found = read(truth, some, kind)
            np.testing.assert_array_equal(found.covered, covered[index, some])
            np.testing.assert_array_equal(found.known, known[index, some])
            assert found.covered.dtype == np.float32
            np.testing.assert_array_equal(
                found.patches_known[..., 1, 2], known[index, some], strict=True
            )
    np.testing.assert_array_equal(read(truth, [1]).covered, covered[0, [1]])
    untold = [row for row in range(6) if row not in rows]
    assert not read(truth, untold, "hand").known.any()
    group = zarr.open_group(url, mode="r")
    assert group["covered"].metadata.dimension_names == ("kind", "clip", "time", "y", "x")
    assert group.attrs["annotations"] == "boxes.csv"


def test_the_truth_of_another_run_is_refused(tmp_path):
    url = f"{tmp_path}/truth.zarr"
    written(url)
    truth = open_ground_truth(url)
    with pytest.raises(StoreError, match="a grid of 2x3x5, the run has 2x4x4"):
        read(truth, [1], grid=(2, 4, 4))
    with pytest.raises(StoreError, match="has 'clip1' where the run has 'other', in row 1"):
        read(truth, [1], names=["other"])
    with pytest.raises(StoreError, match="no row where the run has 'clip9', in row 9"):
        read(truth, [9])
    with pytest.raises(StoreError, match="has no 'object', expected one of person, hand"):
        read(truth, [1], "object")


def as_version_2(identity):
    """An identity as a release wrote it whose default was another."""
    plain = identity.model_dump(mode="json")
    plain["method"] |= {"clamp": "parts", "step_back": False}
    return plain | {"attribution_version": 2}


@pytest.mark.parametrize("as_recorded", [lambda each: each.model_dump(mode="json"), as_version_2])
def test_truth_of_other_frames_is_refused_and_that_of_another_method_is_not(tmp_path, as_recorded):
    layout = small_layout(6)
    url = f"{tmp_path}/truth.zarr"
    made_for = identity_of(layout)
    ids = np.array([f"clip{row}" for row in range(6)], object)
    write_ground_truth(url, KINDS, ids, GRID, (), {"identity": as_recorded(made_for)})
    truth = open_ground_truth(url)
    truth.check_made_for(made_for)
    truth.check_made_for(
        made_for.model_copy(
            update={
                "method": Method(name="evidence").resolved(12, pools_mean=False),
                "manifest": "longer",
                "preprocessing": replace(made_for.preprocessing, image_mean=(0.5, 0.5, 0.5)),
            }
        )
    )
    for key, other, told in (
        ("sampling", Sampling("uniform", 4, position=0.25), "sampling.position is 0.5 there"),
        ("preprocessing", Preprocessing(shortest_edge=200), "preprocessing.shortest_edge is"),
        ("views", ViewsConfig(crops=3), "views.crops is 1 there and 3 here"),
        ("segments", True, "segments is False there and True here"),
    ):
        with pytest.raises(StoreError, match=told):
            truth.check_made_for(made_for.model_copy(update={key: other}))


def test_truth_for_a_run_that_can_not_be_read_is_refused(tmp_path):
    ids = np.array(["clip0"], object)
    for recorded in ({"method": "later"}, "none", 3):
        url = f"{tmp_path}/{len(str(recorded))}.zarr"
        write_ground_truth(url, KINDS, ids, GRID, (), {"identity": recorded})
        with pytest.raises(StoreError, match="a run that this release can't read: make it again"):
            open_ground_truth(url)


def test_truth_whose_writing_was_cut_off_is_named_and_written_again(tmp_path):
    url = f"{tmp_path}/truth.zarr"

    def cut_off():
        yield np.array([0]), "person", Truth(np.ones((1, *GRID), np.float32), np.ones((1, 2), bool))
        raise ConfigError("the annotations end here")

    ids = np.array(["clip0"], object)
    with pytest.raises(ConfigError, match="the annotations end here"):
        write_ground_truth(url, KINDS, ids, GRID, cut_off(), {})
    with pytest.raises(StoreError, match=r"truth\.zarr isn't finished: jobs\.ground_truth makes"):
        open_ground_truth(url)
    written(url)
    assert read(open_ground_truth(url), [1]).known.shape == (1, 2)


def test_nothing_but_ground_truth_is_written_over(tmp_path):
    layout = small_layout(2)
    run = write_run(tmp_path / "run", layout, random_columns(layout))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "list.txt").write_text("clips")
    (tmp_path / "file").write_text("notes")
    zarr.create_array(tmp_path / "array.zarr", shape=(2,), dtype="int8")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for place in (run, f"{run}/attributions.zarr", *(f"{tmp_path}/{n}" for n in ("notes", "file"))):
        for url in (place, f"file://{place}"):
            with pytest.raises(StoreError, match=r"can't (write ground truth to|read)"):
                written(url)
    with pytest.raises(StoreError, match="something else is there"):
        written(str(tmp_path / "array.zarr"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (tmp_path / "empty").mkdir()
    written(str(tmp_path / "empty"))
    written(str(tmp_path / "empty"))


def test_the_second_actor_is_a_kind_of_its_own(tmp_path):
    config = SynthesizeConfig(
        **{"out": str(tmp_path), "n_clips": 3, "width": 96, "height": 64, "fps": 8},
        **{"min_duration_s": 1, "max_duration_s": 2, "n_workers": 1, "n_actors": 2},
    )
    clips = list(write_dataset(config))
    truth = open_ground_truth(str(tmp_path / "ground_truth.zarr"))
    assert truth.kinds == ("actor", "rival")
    preprocessing = Preprocessing(shortest_edge=64, crop=(64, 64))
    for clip in clips:
        first = round(clip.scene.window[0] * 8) + 1
        for kind, mask in (("actor", actor_mask), ("rival", rival_mask)):
            patches = truth.patches(
                clip.video_id, np.array([first]), preprocessing, (1, 64, 64), kind
            )
            np.testing.assert_array_equal(patches[0], mask(clip.scene, first)[:, 16:80])
            assert patches.any()


def drawn(seed):
    print(f"seed {seed}")
    return random.Random(seed)


def read_all(url):
    truth = open_ground_truth(url)
    for kind in KINDS:
        truth.known_rows(6, kind)
        read(truth, [1, 4], kind)


@pytest.mark.parametrize("name", ["covered", "known", "kind", "video_id"])
def test_a_flipped_bit_or_a_lost_object_of_a_truth_on_a_grid_is_one_line(tmp_path, name):
    url = str(tmp_path / "truth.zarr")
    written(url)
    for path in (tmp_path / "truth.zarr" / name / "c").rglob("*"):
        if not path.is_file():
            continue
        whole = path.read_bytes()
        turned = bytearray(whole)
        bit = drawn(datetime.now(UTC).toordinal()).randrange(8 * len(whole))
        turned[bit // 8] ^= 1 << bit % 8
        for content in (turned, whole[: len(whole) // 2], b""):
            path.write_bytes(content)
            with pytest.raises(StoreError, match=f"ground truth at {url}") as raised:
                read_all(url)
            assert "\n" not in str(raised.value)
        path.unlink()
        with pytest.raises(StoreError, match=f"lost objects: {name} has"):
            open_ground_truth(url)
        path.write_bytes(whole)
    open_ground_truth(url)


def test_a_truth_of_before_that_does_not_count_its_objects_is_read(tmp_path):
    url = str(tmp_path / "truth.zarr")
    _, covered, _ = written(url)
    group = zarr.open_group(url, mode="r+")
    del group.attrs["objects"]
    np.testing.assert_array_equal(read(open_ground_truth(url), [1, 4]).covered, covered[0, [1, 4]])


def test_a_truth_that_is_opened_again_is_not_counted_again(tmp_path):
    url = str(tmp_path / "truth.zarr")
    written(url)
    truth = open_ground_truth(url)
    (path,) = (path for path in (tmp_path / "truth.zarr" / "video_id" / "c").iterdir())
    path.unlink()
    assert open_ground_truth(url, count=False).kinds == truth.kinds
    with pytest.raises(StoreError, match="lost objects"):
        open_ground_truth(url)


def test_a_truth_on_a_web_server_without_listings_is_read(tmp_path):
    _, covered, _ = written(str(tmp_path / "truth.zarr"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    content = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in files}
    with served(content) as server:
        truth = open_ground_truth(f"{server.url}/truth.zarr")
        np.testing.assert_array_equal(read(truth, [1, 4]).covered, covered[0, [1, 4]])


@pytest.mark.parametrize("damage", ["turned", "lost"])
def test_damaged_masks_of_a_dataset_are_one_line(tmp_path, damage):
    config = SynthesizeConfig(
        out=str(tmp_path), n_clips=2, width=86, height=64, fps=10, max_duration_s=4.5
    )
    list(write_dataset(config))
    url = str(tmp_path / "ground_truth.zarr")
    whole = open_ground_truth(url)
    assert isinstance(whole, MaskTruth)
    video_id = next(iter(whole.index_of))
    path = next(iter((tmp_path / "ground_truth.zarr" / "mask" / "c" / "0").rglob("0")))
    while path.is_dir():
        path = next(iter(path.iterdir()))
    if damage == "lost":
        path.unlink()
        with pytest.raises(StoreError, match="lost objects: mask has 1 of 2"):
            open_ground_truth(url)
        return
    turned = bytearray(path.read_bytes())
    turned[len(turned) // 2] ^= 1
    path.write_bytes(turned)
    with pytest.raises(StoreError, match=r"is damaged, make it again: mask can't be read"):
        open_ground_truth(url).patches(
            video_id, np.array([0, 1]), Preprocessing(shortest_edge=24, crop=(24, 24)), (2, 2, 2)
        )
