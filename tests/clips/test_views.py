"""Several views of a video: which frames and which part of them each sees, in which row."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from analysis import by_video, open_run
from pipeline.clips.loader import ClipLoader
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import View, Views, ViewsConfig
from pipeline.errors import ConfigError
from pipeline.run.config import SamplingConfig
from pipeline.run.serial import execute_serially
from pipeline.status import Status
from pipeline.store.run_folder import failures_url
from tests.support.runs import (
    assert_same_columns,
    plain_columns,
    prepared,
    stored_columns,
    write_inputs,
)

STRIDED = Sampling("strided", 3, stride=2)
CROPPING = Preprocessing(shortest_edge=32, crop=(32, 32))
WHOLE = Preprocessing(shortest_edge=None, resize=(224, 224), crop=(224, 224))
"""Crops to what it has resized to: nothing."""
VIEWS = ViewsConfig(clips=3, crops=3)
N_VIEWS = 9
MIDDLE = 4
"""View of the middle clip's middle crop."""


def test_views_are_clips_times_crops_in_order():
    views = Views.of_config(ViewsConfig(clips=2, crops=3), STRIDED, CROPPING)
    positions = [(v.sampling.position, v.preprocessing.crop_position) for v in views]
    assert positions == [(0, 0), (0, 0.5), (0, 1), (1, 0), (1, 0.5), (1, 1)]


def test_one_view_is_the_centre():
    assert Views.of_config(ViewsConfig(), STRIDED, CROPPING) == Views((View(STRIDED, CROPPING),))


@pytest.mark.parametrize(
    ("views", "sampling", "preprocessing", "said"),
    [
        (
            ViewsConfig(clips=2),
            Sampling("uniform", 3),
            CROPPING,
            "views.clips=2 with uniform sampling",
        ),
        (
            ViewsConfig(crops=3),
            STRIDED,
            Preprocessing(crop=None),
            "views.crops=3: .* crops nothing",
        ),
        (ViewsConfig(crops=3), STRIDED, WHOLE, "views.crops=3: .* leaves nothing beside its crop"),
        # The crop is larger than the frames, which are padded.
        (
            ViewsConfig(crops=2),
            STRIDED,
            Preprocessing(shortest_edge=100),
            "views.crops=2: .* nothing",
        ),
    ],
)
def test_views_that_would_all_be_the_same_are_refused(views, sampling, preprocessing, said):
    with pytest.raises(ConfigError, match=said):
        Views.of_config(views, sampling, preprocessing)


@pytest.mark.parametrize(
    "preprocessing",
    [CROPPING, replace(WHOLE, resize=(224, 300)), replace(WHOLE, resize=(300, 224))],
)
def test_crops_that_differ_in_frames_of_one_shape_are_taken(preprocessing):
    views = Views.of_config(ViewsConfig(crops=3), STRIDED, preprocessing)
    boxes = {view.preprocessing.crop_box(240, 320) for view in views}
    assert len(boxes) == 3


def test_clips_of_a_video_as_short_as_the_window_are_the_same():
    views = Views.of_config(ViewsConfig(clips=3), STRIDED, CROPPING)
    short, longer = (
        [v.sampling.indices(n_frames=n, fps=30).tolist() for v in views] for n in (6, 8)
    )
    assert short == [[0, 2, 5]] * 3
    assert longer == [[0, 2, 5], [1, 3, 6], [2, 4, 7]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 5 videos, one of them broken, in 9 views each; its plan, and its single views'."""
    folder = tmp_path_factory.mktemp("views")
    inputs = write_inputs(folder, 5, {1: "truncated"}, {2: 60})
    sampling = SamplingConfig(kind="strided", stride=2)
    plan = prepared(inputs.config(folder / "run", views=VIEWS, sampling=sampling, batch_size=4))
    execute_serially(plan)
    single = prepared(inputs.config(folder / "single", sampling=sampling))
    execute_serially(single)
    return plan, single


def test_a_run_of_views_stores_what_a_plain_loop_gives(run, one_thread):
    plan, _ = run
    assert_same_columns(stored_columns(plan.config.out), plain_columns(plan))


def test_every_row_is_a_view_of_its_video(run):
    plan, single = run
    stored, alone = stored_columns(plan.config.out), stored_columns(single.config.out)
    assert stored["video_id"].tolist() == alone["video_id"].repeat(N_VIEWS).tolist()
    assert stored["status"].tolist() == alone["status"].repeat(N_VIEWS).tolist()
    middle = stored["frame_index"].reshape(5, N_VIEWS, -1)[:, MIDDLE]
    np.testing.assert_array_equal(middle, alone["frame_index"])
    # Batches of other clips: the same model in the same precision, but perhaps other last bits.
    for name in ("temporal", "probability"):
        values = stored[name].reshape(5, N_VIEWS, *stored[name].shape[1:])[:, MIDDLE]
        np.testing.assert_allclose(values, alone[name], rtol=1e-4)


def test_clips_lie_from_the_videos_start_to_its_end(run):
    plan, _ = run
    frames = stored_columns(plan.config.out)["frame_index"].reshape(5, 3, 3, -1)[2]
    # A window of 3 * 2 frames among 60, and the same for every crop.
    assert frames[:, 0].tolist() == [[0, 2, 5], [27, 29, 32], [54, 56, 59]]
    assert (frames == frames[:, :1]).all()


def test_a_video_that_fails_fails_in_every_view(run):
    plan, _ = run
    table = pq.read_table(failures_url(plan.config.out))
    assert table["row"].to_pylist() == list(range(9, 18))
    assert table["view"].to_pylist() == list(range(9))
    assert len(set(table["path"].to_pylist())) == 1


def test_views_are_averaged_by_video(run):
    plan, single = run
    ds = open_run(plan.config.out)
    assert ds.view.values.tolist() == list(range(9)) * 5
    videos = by_video(ds)
    assert videos.spatial.dims == ("video", "view", "time", "y", "x")
    mean = videos.probability.where(videos.status == Status.OK).mean("view").values
    stored = stored_columns(plan.config.out)["probability"].reshape(5, 9)
    np.testing.assert_allclose(mean, stored.mean(axis=1), rtol=1e-6)
    later = by_video(ds.isel(clip=slice(18, 45)))
    assert later.video.values.tolist() == [2, 3, 4]
    np.testing.assert_array_equal(later.video_id[:, 0], open_run(single.config.out).video_id[2:])


def test_a_run_of_other_views_is_not_gone_on_with(run):
    plan, _ = run
    other = plan.config.model_copy(update={"views": ViewsConfig(clips=3)})
    with pytest.raises(Exception, match=r"views\.crops is 3 there and 1 here"):
        prepared(other)


def test_a_video_is_fetched_once_for_its_views(run):
    plan, _ = run
    fetched = []

    @contextmanager
    def noted():
        fetched.append(1)
        yield

    loader = ClipLoader(
        root=plan.manifest.root,
        views=plan.views,
        input_size=plan.checkpoint.geometry.input_size,
        class_of_label=plan.class_of_label,
        fetching=noted,
    )
    for start in range(0, 45, 4):
        rows = np.arange(start, min(start + 4, 45))
        table = plan.manifest.take(plan.views.video(rows))
        columns = {name: table[name].to_numpy() for name in table.column_names}
        loader(columns | {"row": rows})
    # 45 rows in batches of 4: a video is fetched once for each of the batches that it is in.
    assert len(fetched) == len({(row // 4, row // 9) for row in range(45)})
