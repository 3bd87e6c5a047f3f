"""A run of 23 clips that was scored, with its manifest."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from analysis import score_run
from pipeline.status import Status
from tests.analysis.stores import manifest_of, random_columns, small_layout, write_run

DAY = int(datetime.now(UTC).strftime("%Y%m%d"))


@pytest.fixture(scope="package")
def scored(tmp_path_factory):
    """Folder of a run that was scored, its columns, and what scoring said."""
    tmp_path = tmp_path_factory.mktemp("scored")
    layout = replace(small_layout(23), optional=("frame_time",))
    status = np.full(23, Status.OK, np.uint8)
    status[[2, 9]] = Status.EMPTY
    seconds = np.arange(4) / 25 + np.arange(23)[:, None]
    columns = random_columns(layout, DAY % 1000, status=status, frame_time=seconds)
    columns["label"][5] = -1
    manifest, digest = manifest_of(tmp_path, 23)
    url = write_run(tmp_path / "run", layout, columns, manifest=manifest, digest=digest)
    return url, columns, score_run(url)
