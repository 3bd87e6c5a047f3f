"""How many models run, and how many clips a task takes, on machines of many sizes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.run.config import AttributeConfig
from pipeline.run.plan import plan_run
from pipeline.run.resources import (
    DECODE_CPUS,
    FRAMES_SHARE,
    MIN_TASKS,
    MODEL_CPUS,
    TASK_BYTES,
    TASK_CLIPS,
    Machine,
    ModelPool,
    Sizes,
    check_columns,
    check_models,
    chosen_sizes,
    clips_per_task,
    guessed_rate,
    model_pool,
)
from pipeline.store.schema import StoreLayout
from tests.support.runs import write_inputs


def config_of(**changes):
    return AttributeConfig(manifest="m", model="m", out="o", **changes)


@pytest.mark.parametrize(
    ("cpus", "gpus", "changes", "expected"),
    [
        (2, 0, {}, ("cpu", 2, 1)),
        (8, 0, {}, ("cpu", 8, 1)),
        (8, 0, {"cpus_per_model": 2}, ("cpu", 4, 1)),
        (3, 0, {"cpus_per_model": 2}, ("cpu", 1, 1)),
        (8, 0, {"n_models": 3}, ("cpu", 3, 3)),
        (16, 4, {}, ("cuda", 4, 4)),
        (8, 8, {}, ("cuda", 8, 8)),
        (16, 4, {"n_models": 2}, ("cuda", 2, 2)),
        (16, 4, {"device": "cpu"}, ("cpu", 16, 1)),
    ],
)
def test_models_take_the_gpus_or_as_many_cpus_as_they_need(cpus, gpus, changes, expected):
    assert model_pool(config_of(**changes), cpus=cpus, gpus=gpus) == ModelPool(*expected)


@pytest.mark.parametrize(
    "changes", [{"n_models": 9}, {"n_models": 2, "cpus_per_model": 4.5}, {"cpus_per_model": 9}]
)
def test_models_of_more_cpus_than_there_are_are_refused(changes):
    with pytest.raises(ConfigError, match=r"n_models: .* are more than 8 CPUs"):
        model_pool(config_of(**changes), cpus=8, gpus=0)
    # More may come.
    assert model_pool(config_of(**changes), cpus=8, gpus=0, may_grow=True).n_models >= 1


@given(cpus=st.integers(1, 256), n_models=st.integers(0, 256))
def test_each_cpu_has_room_for_a_task_that_decodes_beside_a_model(cpus, n_models):
    # Ray counts in ten thousandths.
    left = 10_000 * cpus - min(n_models, cpus) * round(10_000 * MODEL_CPUS)
    assert left // round(10_000 * DECODE_CPUS) >= cpus


def test_a_model_is_not_to_be_compiled_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    check_models(config_of(), Machine(cpus=2, gpus=0))
    with pytest.raises(ConfigError, match=r"compile_model: .* there is no no-such-compiler"):
        check_models(config_of(compile_model=True), Machine(cpus=2, gpus=0))


def test_too_many_models_are_refused_before_a_store_is_made(tmp_path):
    inputs = write_inputs(tmp_path, 1)
    config = inputs.config(tmp_path / "run", n_models=3)
    with pytest.raises(ConfigError, match="are more than 2 CPUs"):
        plan_run(config, machine=Machine(cpus=2, gpus=0))
    assert not (tmp_path / "run").exists()


CLIP_BYTES = 8 * 224 * 224 * 3


def test_a_task_has_the_clips_that_give_its_bytes_in_whole_batches_and_equal_parts():
    def clips(sizes, **changes):
        usual = {"clip_bytes": CLIP_BYTES, "cpus": 8, "n_models": 1, "store_bytes": 10**10}
        return clips_per_task(sizes, **(usual | changes))

    # 32 MB are 26 clips, so 24 in whole batches; a shard is 10 x 24 + 16.
    assert clips(Sizes(8, 256)) == 24
    # 250 MB for 8 CPUs and 2 tasks at the model: 25 MB are 20 clips, so 16.
    assert clips(Sizes(8, 256), store_bytes=10**9) == 16
    # 144 clips of 221 kB would be 32 MB, and take long to decode.
    assert clips(Sizes(8, 256), clip_bytes=8 * 96 * 96 * 3) == TASK_CLIPS == 32
    # Never more than a shard, nor less than a batch.
    assert clips(Sizes(8, 16)) == 16
    assert clips(Sizes(64, 256)) == 64


@pytest.mark.parametrize("clip_bytes", [1, 50_000, CLIP_BYTES, 5_000_000])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 32])
@pytest.mark.parametrize("shard_batches", [1, 7, 32])
@pytest.mark.parametrize("store_bytes", [10**9, 10**11])
def test_tasks_are_whole_batches_of_a_shard_and_fit_the_store(
    clip_bytes, batch_size, shard_batches, store_bytes
):
    sizes = Sizes(batch_size, rows_per_shard=batch_size * shard_batches)
    try:
        n_clips = clips_per_task(
            sizes, clip_bytes=clip_bytes, cpus=4, n_models=2, store_bytes=store_bytes
        )
    except ConfigError:
        assert MIN_TASKS * batch_size * clip_bytes > FRAMES_SHARE * store_bytes
        return
    assert n_clips % batch_size == 0
    assert batch_size <= n_clips <= sizes.rows_per_shard
    assert n_clips == batch_size or n_clips * clip_bytes <= TASK_BYTES
    assert n_clips == batch_size or n_clips <= TASK_CLIPS
    assert MIN_TASKS * n_clips * clip_bytes <= FRAMES_SHARE * store_bytes


def test_heads_that_no_object_store_would_hold_are_refused_with_what_would_fit():
    # All layers and heads of ViViT-B.
    layout = StoreLayout(10**6, 256, 32, 16, 14, 14, n_ranks=5, n_layers=12, n_heads=12)
    assert 0.9e6 < layout.row_bytes < 1.1e6
    given = {"row_bytes": layout.row_bytes, "n_models": 1}
    with pytest.raises(ConfigError, match=r"rows_per_shard: 5 shards of 256 rows .* of 50 at most"):
        check_columns(Sizes(8, 256), store_bytes=10**9, **given)
    check_columns(Sizes(8, 48), store_bytes=10**9, **given)
    check_columns(Sizes(8, 256), store_bytes=10**10, **given)


def sizes_of(n_rows, *, device="cpu", n_views=1, **changes):
    usual = {"row_bytes": 3400, "clips_per_s": 20.0, "store_bytes": 10**9}
    given = {name: changes.pop(name, value) for name, value in usual.items()}
    return chosen_sizes(
        config_of(**changes), n_rows=n_rows, n_views=n_views, device=device, **given
    )


def test_shards_grow_with_the_run_and_batches_with_the_device():
    assert sizes_of(1) == sizes_of(99_999) == Sizes(8, 256)
    assert sizes_of(400_000) == Sizes(8, 1024)
    assert sizes_of(10**7) == Sizes(8, 4096)
    assert sizes_of(10**7, device="cuda") == Sizes(32, 4096)
    assert sizes_of(10**7, batch_size=4, rows_per_shard=20) == Sizes(4, 20)
    # What is gone back through is kept.
    back = {"method": {"name": "libragrad"}}
    assert sizes_of(1, **back) == Sizes(2, 256)
    assert sizes_of(1, device="cuda", **back) == Sizes(8, 256)
    assert sizes_of(1, batch_size=8, **back) == Sizes(8, 256)
    # Of what was asked for, nothing is changed; a batch must part it.
    assert sizes_of(10**7, rows_per_shard=20) == Sizes(5, 20)


def test_shards_stay_below_ten_minutes_of_work_and_fit_behind_the_models():
    assert sizes_of(10**7, clips_per_s=1.0) == Sizes(8, 512)
    assert sizes_of(10**7, clips_per_s=0.01) == Sizes(8, 256)
    # All layers and heads: a megabyte a clip.
    assert sizes_of(100, row_bytes=10**6) == Sizes(8, 32)
    assert sizes_of(100, row_bytes=10**6, store_bytes=None) == Sizes(8, 256)


@given(
    n_rows=st.integers(1, 10**8),
    n_views=st.integers(1, 30),
    batch_size=st.one_of(st.none(), st.integers(1, 4096)),
    row_bytes=st.integers(1, 10**7),
    clips_per_s=st.floats(1e-3, 1e4),
)
def test_shards_are_whole_batches_and_whole_videos_if_they_may_be(
    n_rows, n_views, batch_size, row_bytes, clips_per_s
):
    sizes = sizes_of(
        n_rows, n_views=n_views, batch_size=batch_size, row_bytes=row_bytes, clips_per_s=clips_per_s
    )
    assert sizes.rows_per_shard % sizes.batch_size == 0
    if batch_size or n_views == 1:
        assert sizes.batch_size == (batch_size or 8)
    assert batch_size or 4 <= sizes.batch_size <= 8
    assert sizes.rows_per_shard <= max(4096, sizes.batch_size)
    if sizes.batch_size * n_views <= 256:
        assert sizes.rows_per_shard % n_views == 0


def test_the_guess_of_the_rate_is_right_within_a_factor_of_three():
    # TimeSformer-B took 2.2 s of two cores for a clip, and VideoMAE-B as long.
    base = guessed_rate(weights_bytes=486_000_000, n_tokens=1568, cpus=2, gpus=0)
    assert 0.45 / 3 < base < 0.45 * 3
    assert guessed_rate(weights_bytes=486_000_000, n_tokens=1568, cpus=2, gpus=1) == 20


@pytest.mark.parametrize(
    ("n_views", "batch_size"), [(1, 8), (2, 8), (3, 6), (10, 5), (12, 6), (15, 5), (24, 8)]
)
def test_batches_go_with_the_views_of_a_video(n_views, batch_size):
    sizes = sizes_of(1000, n_views=n_views)
    assert sizes.batch_size == batch_size
    assert sizes.unit == math.lcm(batch_size, n_views) <= 24
    # On a GPU the same, and what is asked for stands.
    assert sizes_of(1000, n_views=15, device="cuda").unit == 30
    assert sizes_of(1000, n_views=15, batch_size=8) == Sizes(8, 240, 15)


def test_a_video_of_more_frames_than_a_task_has_is_one_task():
    clip_bytes = 16 * 224 * 224 * 3
    sizes = Sizes(5, 240, n_views=15)
    assert 15 * clip_bytes > TASK_BYTES
    given = {"clip_bytes": clip_bytes, "cpus": 2, "n_models": 1}
    assert clips_per_task(sizes, **given, store_bytes=10**9) == 15
    # Where three of them don't fit into the object store, its views are read in parts.
    assert clips_per_task(sizes, **given, store_bytes=2 * 10**8) == 5
    assert clips_per_task(Sizes(2, 4, n_views=3), **given, store_bytes=10**9) == 4
