"""Rows of a run, loaded by number, are those that the run saw."""

import numpy as np
import pytest

from pipeline.clips.views import ViewsConfig
from pipeline.run.config import SamplingConfig
from pipeline.run.job import real_stages
from pipeline.run.row_loader import RowLoader
from pipeline.run.tally import LocalChannel, Tally
from pipeline.status import Status
from tests.support.runs import prepared, write_inputs


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    inputs = write_inputs(folder, 6, {2: "missing"})
    sampling = SamplingConfig(kind="strided", stride=2)
    return prepared(inputs.config(folder / "run", sampling=sampling, views=ViewsConfig(clips=2)))


def test_rows_come_in_their_order_with_their_views_and_failures(plan):
    load = real_stages(plan, "cpu", LocalChannel(Tally(4))).load
    rows = [1, 4, 5, 10]
    loaded = RowLoader(plan.manifest, plan.views, load)(rows)
    assert loaded["row"].tolist() == rows
    assert loaded["status"].tolist() == [Status.OK, Status.MISSING, Status.MISSING, Status.OK]
    for at, row in enumerate(rows):
        alone = RowLoader(plan.manifest, plan.views, load)([row])
        for name in ("frames", "frame_index", "video_id"):
            np.testing.assert_array_equal(alone[name][0], loaded[name][at])
    # Two views of one video see other frames of it.
    both = RowLoader(plan.manifest, plan.views, load)([0, 1])
    assert both["video_id"][0] == both["video_id"][1]
    assert both["frame_index"][0].tolist() != both["frame_index"][1].tolist()
