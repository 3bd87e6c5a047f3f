"""Classes on the page: numbers against pandas and loops, and words that say what pictures show."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis import class_statistics, open_run, scores
from analysis.page.classes import (
    Maps,
    class_seconds,
    class_table,
    confusion,
    difference_of,
    picture_of,
    profile_of,
)
from pipeline.status import Status
from tests.analysis.stores import CLASS_NAMES, random_columns, small_layout, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 30 clips, two of which failed; the last class has none."""
    layout = small_layout(30)
    status = np.full(30, Status.OK, np.uint8)
    status[[4, 9]] = Status.TRUNCATED
    label = np.arange(30, dtype=np.int32) % 2
    label[7] = -1
    columns = random_columns(layout, status=status, label=label)
    url = write_run(tmp_path_factory.mktemp("run") / "run", layout, columns)
    table = scores(url)
    return class_statistics(open_run(url)).compute(), table[(table["status"] == "ok").to_numpy()]


def test_the_table_has_the_means_of_each_class(run):
    statistics, table = run
    columns = class_table(table, table["label_index"].to_numpy(), statistics, {"archery": 3})
    assert columns["name"] == list(CLASS_NAMES)
    assert columns["findings"] == [3, 0, 0]
    assert columns["failed"].tolist() == [1, 1, 0]
    for index, name in enumerate(CLASS_NAMES[:2]):
        clips = table[table["label"] == name]
        assert columns["n"][index] == len(clips)
        assert columns["accuracy"][index] == pytest.approx(clips["correct"].astype(float).mean())
        for score in ("entropy", "probability", "border_mass", "class_agreement"):
            assert columns[score][index] == pytest.approx(clips[score].mean(), rel=1e-5)
    assert columns["n"][2] == 0
    assert np.isnan(columns["entropy"][2])


def test_confusion_counts_every_labelled_clip_once(run):
    _, table = run
    pairs = confusion(table)
    labelled = table[table["label_index"] >= 0]
    expected = pd.crosstab(labelled["label_index"], labelled["prediction_index"])
    for label, prediction, n in zip(*pairs.values(), strict=True):
        assert expected.loc[label, prediction] == n
    assert pairs["n"].sum() == len(labelled)


def test_a_logo_in_one_class_leaves_the_others_their_contrast(run):
    statistics, _ = run
    # Of many classes, one of which has all its attention in a corner.
    rng = np.random.default_rng(2)
    spatial = rng.uniform(0.8, 1.2, (20, 6, 6))
    spatial[0] = 0.01
    spatial[0, 0, 5] = 35
    maps = Maps(spatial, spatial.mean(axis=0), *scales_of(spatial))
    data = maps.of_class(7)
    pixels = np.asarray(Image.open(io.BytesIO(decoded(data["map"]))))
    assert np.ptp(pixels.astype(int)) > 200
    assert maps.of_class(0)["most"] == {"value": 35.0, "y": 1, "x": 6, "where": "top right"}
    assert maps.of_class(0)["difference"]["most"]["where"] == "top right"
    legend = maps.legend()
    assert legend["map"] == sorted(legend["map"])
    assert legend["map"][-1] == 35
    assert Maps.of(statistics).spatial.shape == (3, 3, 5)


def scales_of(spatial):
    from analysis.page.pictures import QuantileScale

    return QuantileScale.of(spatial), QuantileScale.of(np.abs(spatial - spatial.mean(axis=0)))


def decoded(url):
    return base64.b64decode(url.removeprefix("data:image/png;base64,"))


def test_nearly_uniform_maps_say_so_and_can_be_read_on_a_scale_of_their_own():
    rng = np.random.default_rng(3)
    wide, flat = rng.uniform(0, 3, (5, 4, 4)), rng.uniform(0.99, 1.01, (4, 4))
    spatial = np.concatenate([wide, flat[None]])
    maps = Maps(spatial, spatial.mean(axis=0), *scales_of(spatial))
    shown = picture_of(flat, maps)
    assert shown["nearlyUniform"]
    assert not picture_of(wide[0], maps)["nearlyUniform"]
    own = np.asarray(Image.open(io.BytesIO(decoded(shown["ownMap"])))).astype(int)
    assert np.ptp(own) > 250
    assert shown["ownLegend"][0] == pytest.approx(flat.min())


def test_a_difference_says_where_most_was_gained():
    overall = np.ones((3, 3))
    spatial = overall.copy()
    spatial[2, 0], spatial[0, 0] = 3, 0.5
    scale = Maps(spatial[None], overall, *scales_of(spatial[None])).difference_scale
    shown = difference_of(spatial, overall, scale)
    assert shown["most"] == {"value": 2.0, "y": 3, "x": 1, "where": "bottom left"}
    assert shown["least"] == -0.5


def test_a_profile_has_the_interval_of_its_mean(run):
    statistics, table = run
    n = table.loc[table["label"] == CLASS_NAMES[0], "video_id"].nunique()
    shown = profile_of(statistics, 0, np.array([0.1, 0.6]), n)
    assert shown["mean"].mean() == pytest.approx(1)
    assert shown["high"] - shown["mean"] == pytest.approx(1.96 * shown["std"] / np.sqrt(n))
    assert (shown["low"] >= 0).all()
    assert (shown["low"] <= shown["mean"]).all()


def test_a_profile_of_few_videos_has_no_interval(run):
    statistics, _ = run
    for n_videos, has in ((4, False), (5, True), (0, False)):
        shown = profile_of(statistics, 0, None, n_videos)
        assert (shown["low"] is not None) == (shown["high"] is not None) == has
        assert shown["mean"].mean() == pytest.approx(1)


def test_seconds_are_medians_over_the_clips_of_a_class():
    rng = np.random.default_rng(4)
    times = np.sort(rng.uniform(0, 9, (12, 4)), axis=1)
    times[3] = np.nan
    groups = np.array([0, 0, 0, 0, 2, 2, 2, -1, -1, 0, 2, 2])
    seconds = class_seconds(times, groups, 3, 2)
    assert seconds[1] is None
    for index in (0, 2):
        clips = [row for row in range(12) if groups[row] == index and row != 3]
        assert seconds[index] == pytest.approx(np.median(times[clips][:, [0, 2]], axis=0))
    assert class_seconds(None, groups, 3, 2) == [None] * 3
