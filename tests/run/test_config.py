"""The configuration of a run: what goes together, what one call does, a run for each model."""

import pytest
from pydantic import ValidationError

from pipeline.run.config import (
    FAILURES,
    AttributeConfig,
    AttributeJob,
    OneCall,
    SamplingConfig,
)
from pipeline.status import Status
from pipeline.store.run_folder import RUN_NAMES

REQUIRED = {"manifest": "m.parquet", "out": "run"}


def refusal(make, **values):
    """What is said of values that are refused, on one line."""
    with pytest.raises(ValidationError) as caught:
        make(**values)
    (problem, *others) = caught.value.errors()
    assert not others
    return problem["msg"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "strided"}, "a stride goes with 'strided'"),
        ({"stride": 2}, "a stride goes with 'strided'"),
        ({"kind": "uniform", "target_fps": 25.0}, "a rate goes with 'strided'"),
    ],
)
def test_a_stride_goes_with_strided_sampling_alone(values, said):
    assert said in refusal(SamplingConfig, **values)
    assert SamplingConfig(kind="strided", stride=2, target_fps=25.0).stride == 2


@pytest.mark.parametrize(("batch_size", "rows_per_shard"), [(8, 256), (1, 1), (3, 9)])
def test_batches_fill_shards(batch_size, rows_per_shard):
    sizes = {"batch_size": batch_size, "rows_per_shard": rows_per_shard}
    assert AttributeConfig(**REQUIRED, model="m", **sizes).batch_size == batch_size
    sizes["rows_per_shard"] += 1
    if batch_size > 1:
        said = refusal(AttributeConfig, **REQUIRED, model="m", **sizes)
        assert f"rows_per_shard={rows_per_shard + 1} is not a multiple" in said


def test_what_is_differentiated_is_not_compiled():
    given = REQUIRED | {"model": "m", "compile_model": True}
    assert AttributeConfig(**given).compile_model
    said = refusal(AttributeConfig, **given, method="libragrad")
    assert "compile_model=True with method.name='libragrad': its forward pass is diff" in said


def test_sizes_and_times_may_have_units_and_come_back_from_json():
    config = AttributeConfig(
        **REQUIRED, model="m", decode_timeout="2min", decode_memory="2GB", local_object_store="1GB"
    )
    assert (config.decode_timeout, config.decode_memory) == (120, 2_000_000_000)
    assert AttributeConfig.model_validate_json(config.model_dump_json()) == config


def test_what_one_call_does_is_no_part_of_what_is_recorded():
    job = AttributeJob(**REQUIRED, model="m", retry_failed="all")
    assert job.call() == OneCall(retry_failed=FAILURES)
    (config,) = job.runs()
    assert not set(OneCall.model_fields) & set(config.model_dump())


@pytest.mark.parametrize("names", ["all", ",".join(FAILURES)])
def test_every_failure_may_be_retried_and_nothing_else(names):
    statuses = OneCall(retry_failed=names).statuses_to_retry
    assert statuses == tuple(status for status in Status if status.failed)
    assert OneCall(retry_failed="timeout,crashed").statuses_to_retry == (
        Status.TIMEOUT,
        Status.CRASHED,
    )
    for name in ("ok", "pending", "Timeout", "timeout,all"):
        assert "is not a failure status" in refusal(OneCall, retry_failed=name)


@pytest.mark.parametrize("other", [{"append": True}, {"retry_failed": "all"}])
def test_overwriting_leaves_nothing_to_add_to_or_to_retry(other):
    assert "overwrite and" in refusal(OneCall, overwrite=True, **other)


def test_each_model_is_a_run_of_its_own_below_the_folder():
    job = AttributeJob(manifest="m", out="runs/", models="a=org/x,b=folder", batch_size=4)
    first, second = job.runs()
    assert (first.out, first.model) == ("runs/a", "org/x")
    assert (second.out, second.model) == ("runs/b", "folder")
    assert first.batch_size == second.batch_size == 4


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "model"),
        ({"model": "m", "models": "a=b"}, "models"),
        ({"models": "a=b", "revision": "main"}, "revision"),
        ({"models": "a/b=c"}, "names a folder"),
        ({"models": "a=b,a=c"}, "given twice"),
        ({"models": "a"}, "expected name=checkpoint"),
        # A run in the folder itself would have it deleted; some disks ignore case.
        *(({"models": f"{name.upper()}=b"}, "is a part of a run") for name in RUN_NAMES),
    ],
)
def test_models_that_can_not_be_told_apart_are_refused(values, said):
    assert said in refusal(AttributeJob, **REQUIRED, **values)
