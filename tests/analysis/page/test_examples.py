"""The frames of a clip are the ones that the run saw, or the reason why not is told."""

from dataclasses import replace

import numpy as np
import pytest

from analysis import open_run
from analysis.page.examples import ClipSource, manifest_rows
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import Views, ViewsConfig
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import ROWS_PER_GROUP, read_manifest, write_manifest
from pipeline.errors import ManifestError
from pipeline.status import DecodeError, Status
from tests.analysis.stores import FRAME_SIZE, random_columns, small_layout, write_run
from tests.support import stand_ins
from tests.support.clips import numbered_frames, write_mp4

ONE_VIEW = Views.of_config(ViewsConfig(), Sampling("uniform", 4), Preprocessing())


def test_manifest_rows_are_found_across_row_groups(tmp_path):
    n_rows = ROWS_PER_GROUP + 10
    names = "\n".join(f"{row}.mp4" for row in range(n_rows))
    (tmp_path / "list.txt").write_text(names)
    annotations = str(tmp_path / "list.txt")
    table = build_manifest(layout="list", clips=str(tmp_path), annotations=annotations)
    write_manifest(table, str(tmp_path / "m.parquet"))
    manifest = read_manifest(str(tmp_path / "m.parquet"))
    rows = [ROWS_PER_GROUP + 9, 3, ROWS_PER_GROUP, 0, 3]
    found = manifest_rows(manifest, rows, ONE_VIEW)
    assert {row: record["path"] for row, record in found.items()} == {
        row: f"{row}.mp4" for row in rows
    }
    assert manifest_rows(manifest, [], ONE_VIEW) == {}


@pytest.fixture
def run(tmp_path):
    """A run of one clip of 12 frames, of which its model of 4 frames sees 1, 4, 7 and 10."""
    (tmp_path / "clips").mkdir()
    write_mp4(tmp_path / "clips" / "one.mp4", numbered_frames(12), crf="10")
    manifest = str(tmp_path / "manifest.parquet")
    write_manifest(build_manifest(layout="files", clips=str(tmp_path / "clips")), manifest)
    layout = small_layout(1)
    url = write_run(
        tmp_path / "run",
        layout,
        random_columns(layout, frame_index=np.array([[1, 4, 7, 10]], np.int32)),
        manifest=manifest,
        digest=read_manifest(manifest).digest,
    )
    return open_run(url)


def test_frames_are_those_that_the_model_saw(run):
    source = ClipSource.of_run(run)
    frames = source.frames(0, "one.mp4", run["frame_index"].values[0])
    assert frames.shape == (4, FRAME_SIZE, FRAME_SIZE, 3)
    expected = source.views.of(0).preprocessing.resize_and_crop(numbered_frames(12)[[1, 4, 7, 10]])
    assert np.abs(frames.astype(int) - expected).mean() < 5


def test_a_clip_that_has_changed_is_told(run):
    source = ClipSource.of_run(run)
    with pytest.raises(ValueError, match="the file has changed"):
        source.frames(0, "one.mp4", np.array([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="has changed since the run: its bytes are others"):
        source.frames(0, "one.mp4", run["frame_index"].values[0], digest=bytes(16))
    with pytest.raises(DecodeError) as caught:
        source.frames(0, "gone.mp4", run["frame_index"].values[0])
    assert caught.value.status == Status.MISSING


@pytest.mark.parametrize(
    ("what", "status"), [("hang", Status.TIMEOUT), ("segfault", Status.CRASHED)]
)
def test_a_file_that_hangs_or_crashes_the_decoder_costs_its_picture_alone(
    run, tmp_path, what, status
):
    source = replace(ClipSource.of_run(run), decode=stand_ins.DECODE, timeout_s=0.5)
    (tmp_path / "clips" / "one.mp4").write_bytes(f"STAND-IN {what}".encode())
    with pytest.raises(DecodeError) as caught:
        source.frames(0, "one.mp4", run["frame_index"].values[0])
    assert caught.value.status == status


def test_limits_are_those_of_the_run(run):
    config = run.attrs["config"] | {"decode_timeout": 7.0, "decode_memory": 600_000_000}
    source = ClipSource.of_run(run.assign_attrs(config=config))
    assert (source.timeout_s, source.memory_bytes) == (7.0, 600_000_000)


def test_another_manifest_than_the_runs_is_refused(run, tmp_path):
    write_mp4(tmp_path / "clips" / "another.mp4", numbered_frames(12))
    table = build_manifest(layout="files", clips=str(tmp_path / "clips"))
    write_manifest(table, str(tmp_path / "manifest.parquet"))
    with pytest.raises(ManifestError, match="has changed since the run"):
        ClipSource.of_run(run)
    (tmp_path / "manifest.parquet").unlink()
    with pytest.raises(ManifestError, match="can't read manifest"):
        ClipSource.of_run(run)
