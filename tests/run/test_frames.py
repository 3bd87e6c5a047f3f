"""Runs with a cache of frames, and runs of a job that share a decode: the bits of those without."""

import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.clips.frames_folder import find_part
from pipeline.clips.views import ViewsConfig
from pipeline.errors import ConfigError, StorageError
from pipeline.run.config import SamplingConfig
from pipeline.run.frames import TEMPORARY_NAME, frames_identity, reading_frames, with_frames
from pipeline.run.job import real_stages
from pipeline.run.plan import plan_run
from pipeline.run.serial import execute_serially
from pipeline.run.tally import LocalChannel, Tally
from pipeline.status import Status
from tests.support import counting
from tests.support.checkpoints import save_timesformer
from tests.support.runs import (
    assert_same_columns,
    objects,
    plain_columns,
    prepared,
    run_attribute,
    stored_columns,
    tree,
    write_inputs,
)

N_CLIPS = 10
DAMAGED = {1: "missing", 3: "truncated", 6: "empty", 8: "too_short"}
N_DECODED = N_CLIPS - 1
"""Clips that are there, which the decoder gets."""
N_OK = N_CLIPS - len(DAMAGED)

pytestmark = pytest.mark.usefixtures("one_thread", "notes")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("frames"), N_CLIPS, DAMAGED)


@pytest.fixture(scope="module")
def models(tmp_path_factory, inputs):
    """Three models: of the same frames, and of others."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "first": inputs.model,
        "same": str(save_timesformer(folder / "same", seed=1)),
        "longer": str(save_timesformer(folder / "longer", seed=2, num_frames=5)),
    }


def counted(*arguments):
    """The real stages, with a decoder that notes what it is given."""
    stages = real_stages(*arguments)
    return replace(stages, load=replace(stages.load, decode=counting.DECODE))


serially = partial(execute_serially, stages_of=counted)


def run(inputs, out, *more, execute=serially):
    flags = inputs.flags(out, "--max-failed-fraction=1", *more)
    if any(flag.startswith("--models=") for flag in more):
        flags = [flag for flag in flags if not flag.startswith("--model=")]
    return run_attribute(flags, execute)


def contents(out):
    return {name: data for name, (data, _) in objects(out).items()}


@pytest.fixture(scope="module")
def plain(inputs, models, tmp_path_factory):
    """Content of the store of each model, run by itself and without a cache."""
    folder = tmp_path_factory.mktemp("plain")
    for name, model in models.items():
        # Nobody counts yet what is decoded.
        assert run(inputs, folder / name, f"--model={model}", execute=execute_serially) == 0
    return {name: contents(folder / name) for name in models}


def test_with_the_cache_a_run_is_the_same_to_the_byte_and_a_later_one_decodes_nothing(
    inputs, models, plain, tmp_path, notes
):
    cache = f"--frames-cache={tmp_path / 'cache'}"
    notes.taken()
    assert run(inputs, tmp_path / "a", cache) == 0
    assert notes.n_passes() == N_DECODED
    assert contents(tmp_path / "a") == plain["first"]
    # Of the clips that aren't ok, nothing is kept.
    assert run(inputs, tmp_path / "b", cache) == 0
    assert notes.n_passes() == N_DECODED - N_OK
    assert contents(tmp_path / "b") == plain["first"]
    # Another model that takes the same frames, also.
    assert run(inputs, tmp_path / "c", cache, f"--model={models['same']}") == 0
    assert notes.n_passes() == N_DECODED - N_OK
    assert contents(tmp_path / "c") == plain["same"]


def test_a_retry_takes_what_is_cached_and_decodes_the_rest(inputs, plain, tmp_path, notes):
    cache = f"--frames-cache={tmp_path / 'cache'}"
    assert run(inputs, tmp_path / "a", cache) == 0
    folder = Path(inputs.manifest).parent / "clips"
    away = next(path for path in sorted(folder.iterdir()) if path.stem == inputs.video_ids[4])
    shutil.move(away, tmp_path / "away")
    try:
        assert run(inputs, tmp_path / "b") == 0
        assert stored_columns(tmp_path / "b")["status"][4] == Status.MISSING
    finally:
        shutil.move(tmp_path / "away", away)
    notes.taken()
    assert run(inputs, tmp_path / "b", cache, "--retry-failed=missing") == 0
    # It was moved away and back: some file systems tell of that, and it is decoded again there.
    assert notes.n_passes() <= 1
    assert contents(tmp_path / "b") == plain["first"]


@pytest.mark.parametrize("order", ["first,same,longer", "longer,first,same"])
def test_models_of_a_job_decode_each_file_once(inputs, models, plain, tmp_path, notes, order):
    out = tmp_path / "runs"
    named = ",".join(f"{name}={models[name]}" for name in order.split(","))
    notes.taken()
    assert run(inputs, out, f"--models={named}") == 0
    passes = notes.taken()
    # A clip that fails for a model is looked at again by each; the others are decoded once.
    assert sorted(passes.values())[:N_OK] == [1] * N_OK
    for name in models:
        assert contents(out / name) == plain[name]
    assert sorted(path.name for path in out.iterdir()) == sorted(models)


def test_a_job_that_was_broken_off_goes_on_with_what_it_has_left(
    inputs, models, plain, tmp_path, notes
):
    out = tmp_path / "runs"
    named = f"--models=first={models['first']},longer={models['longer']}"
    n_runs = 0

    def broken_off(plan, lease):
        nonlocal n_runs
        n_runs += 1
        if n_runs == 2:
            raise StorageError("away")
        return execute_serially(plan, lease, stages_of=counted)

    assert run(inputs, out, named, execute=broken_off) == 1
    assert (out / TEMPORARY_NAME).is_dir()
    notes.taken()
    assert run(inputs, out, named) == 0
    assert notes.n_passes() == N_DECODED - N_OK
    assert contents(out / "longer") == plain["longer"]
    assert not (out / TEMPORARY_NAME).exists()


def test_a_temporary_cache_keeps_only_what_a_later_run_takes(inputs, models, tmp_path):
    configs = [
        inputs.config(tmp_path / "runs" / name, model=models[name]) for name in ("first", "longer")
    ]
    first, longer = with_frames([plan_run(config) for config in configs], str(tmp_path / "runs"))
    assert first.cache is None
    assert [reader.cache.url for reader in first.shared] == [longer.cache.url]
    assert not longer.cache.fills
    assert longer.shared == ()
    url = str(tmp_path / "runs" / TEMPORARY_NAME)
    assert find_part(url, frames_identity(first), first.manifest) is None


def test_a_job_with_a_cache_of_its_own_has_no_temporary_one(inputs, models, plain, tmp_path, notes):
    out, cache = tmp_path / "runs", f"--frames-cache={tmp_path / 'cache'}"
    named = f"--models=first={models['first']},longer={models['longer']}"
    assert run(inputs, out, cache, named) == 0
    notes.taken()
    for name in ("first", "longer"):
        assert run(inputs, tmp_path / name, cache, f"--model={models[name]}") == 0
        assert contents(tmp_path / name) == plain[name]
    assert notes.n_passes() == 2 * (N_DECODED - N_OK)


def test_one_model_without_a_cache_has_none(inputs, tmp_path):
    (plan,) = with_frames([plan_run(inputs.config(tmp_path / "run"))], str(tmp_path / "run"))
    assert plan.cache is None
    assert not (tmp_path / "run").exists()


def test_a_bound_that_is_reached_is_told_and_changes_nothing(
    inputs, plain, tmp_path, capsys, notes
):
    plan = plan_run(inputs.config(tmp_path / "run"))
    room = frames_identity(plan).row_bytes * 3
    more = (f"--frames-cache={tmp_path / 'cache'}", f"--frames-cache-size={room}")
    assert run(inputs, tmp_path / "run", *more) == 0
    assert "has room for the frames of the first 3 of 10 rows" in capsys.readouterr().err
    assert contents(tmp_path / "run") == plain["first"]
    notes.taken()
    assert run(inputs, tmp_path / "again", *more) == 0
    # Of the first three rows one is missing.
    assert notes.n_passes() == N_DECODED - 2


def test_a_cache_that_workers_do_not_see_is_refused(inputs, tmp_path):
    plan = plan_run(inputs.config(tmp_path / "run", frames_cache="memory://cache"))
    with pytest.raises(ConfigError, match="frames_cache: memory://cache is seen by one process"):
        with_frames([plan], str(tmp_path / "run"))


def test_a_cache_that_can_not_be_written_is_one_line_before_anything_is_made(
    inputs, tmp_path, capsys
):
    (tmp_path / "file").write_text("notes")
    assert run(inputs, tmp_path / "run", f"--frames-cache={tmp_path / 'file'}") == 2
    stderr = capsys.readouterr().err
    assert "frames_cache: can't write" in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "run" / "attributions.zarr").exists()


@pytest.mark.parametrize("sizes", [(2, 6), (2, 12), (3, 3)])
def test_a_file_is_decoded_once_for_its_views_whatever_the_batch(inputs, tmp_path, notes, sizes):
    batch_size, rows_per_shard = sizes
    config = inputs.config(
        tmp_path / "run",
        sampling=SamplingConfig(kind="strided", stride=2),
        views=ViewsConfig(clips=3),
        batch_size=batch_size,
        rows_per_shard=rows_per_shard,
    )
    plan = prepared(config)
    assert plan.sizes.unit == math.lcm(3, batch_size)
    notes.taken()
    execute_serially(plan, stages_of=counted)
    passes = notes.taken()
    # What fails is looked at once more, view by view.
    assert sorted(passes.values())[:N_OK] == [1] * N_OK
    assert_same_columns(stored_columns(tmp_path / "run"), plain_columns(plan))


def test_who_looks_at_clips_again_reads_the_runs_cache_and_leaves_nothing(inputs, tmp_path, notes):
    cache = f"--frames-cache={tmp_path / 'cache'}"
    assert run(inputs, tmp_path / "run", cache) == 0
    plan = plan_run(inputs.config(tmp_path / "run", frames_cache=str(tmp_path / "cache")))
    assert plan.cache is None
    before = tree(tmp_path / "cache")
    reading = reading_frames(plan)
    notes.taken()
    chosen = np.array([0, 2, 5, 9])
    tables = {"whole": plan.manifest.take(np.arange(N_CLIPS)), "part": plan.manifest.take(chosen)}
    rows = {
        name: {column: table[column].to_numpy() for column in table.column_names}
        | {"row": np.arange(table.num_rows)}
        for name, table in tables.items()
    }
    channel = LocalChannel(Tally(4))
    expected = counted(plan, "cpu", channel).load(rows["whole"])
    assert notes.n_passes() == N_DECODED
    got = counted(reading, "cpu", channel).load(rows["whole"])
    assert notes.n_passes() == N_DECODED - N_OK
    assert_same_columns(got, expected)
    # Rows of a sample are others than the run's.
    sample = reading_frames(plan, plan.manifest, chosen)
    got = counted(sample, "cpu", channel).load(rows["part"])
    assert notes.n_passes() == 0
    for name, values in got.items():
        if name != "row":
            np.testing.assert_array_equal(values, expected[name][chosen], err_msg=name)
    assert tree(tmp_path / "cache") == before


@pytest.mark.parametrize("state", ["none", "deleted", "a file"])
def test_a_cache_that_is_not_there_any_more_is_done_without(inputs, tmp_path, state):
    cache = tmp_path / "cache"
    if state == "a file":
        cache.write_text("notes")
    config = inputs.config(tmp_path / "run", frames_cache=None if state == "none" else str(cache))
    assert reading_frames(plan_run(config)).cache is None
