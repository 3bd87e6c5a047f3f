"""Planning checks everything and changes nothing, whatever is at the target."""

import pytest

from pipeline.errors import ConfigError, ManifestError, RunMismatchError, StaaError, StoreError
from pipeline.run.config import OneCall
from pipeline.run.plan import plan_run, plan_runs
from pipeline.run.prepare import prepare
from pipeline.run.resources import Machine, Sizes
from pipeline.status import Status
from pipeline.store.opening import open_store
from tests.support.runs import tree, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("plan"), 6)


@pytest.fixture
def run(inputs, tmp_path):
    """Folder of a run, of whose rows one failed and one is pending."""
    plan = plan_run(inputs.config(tmp_path / "run"))
    prepare(plan)
    status = open_store(plan.store_url, mode="r+").array("status")
    status[:] = [Status.OK] * 4 + [Status.TIMEOUT, Status.PENDING]
    return tmp_path / "run"


CALLS = {
    "go on": {},
    "overwrite": {"overwrite": True},
    "append": {"append": True},
    "retry": {"retry_failed": ("timeout",)},
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_nothing_is_changed_by_a_plan(inputs, run, call):
    before = tree(run)
    plan = plan_run(inputs.config(run), OneCall(**call))
    assert plan.call == OneCall(**call)
    assert tree(run) == before


def test_nothing_is_made_by_a_plan(inputs, tmp_path):
    plan = plan_run(inputs.config(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    assert plan.layout.n_rows == 6
    assert plan.record.identity.manifest == plan.manifest.digest
    assert plan.class_of_label.keys() == {label for label, _ in plan.manifest.distinct_labels()}


def test_a_plan_is_a_value(inputs, tmp_path):
    """The same configuration gives the same record, and so the same run."""
    first, second = (plan_run(inputs.config(tmp_path / "run")) for _ in range(2))
    assert first.record == second.record
    assert first.run == second.run


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"batch_size": 4}, "batch_size is 2 there and 4 here"),
        ({"method": "rollout"}, "method.name is 'evidence' there and 'rollout' here"),
        ({"sampling": {"kind": "strided", "stride": 2}}, "sampling.kind is 'uniform' there"),
        ({"rows_per_shard": 8}, "rows_per_shard is 4 there and 8 here"),
    ],
)
def test_another_run_is_refused_with_the_difference_and_overwriting_it_is_not(
    inputs, run, changes, differs
):
    before = tree(run)
    with pytest.raises(RunMismatchError, match=differs):
        plan_run(inputs.config(run, **changes))
    plan_run(inputs.config(run, **changes), OneCall(overwrite=True))
    assert tree(run) == before


@pytest.mark.parametrize(
    "changes", [{"decode_timeout": 5}, {"n_models": 2}, {"max_failed_fraction": 1}]
)
def test_what_decides_of_no_bits_may_change_when_a_run_goes_on(inputs, run, changes):
    plan_run(inputs.config(run, **changes))


def test_sizes_are_chosen_once_and_kept_by_the_run(inputs, tmp_path):
    config = inputs.config(tmp_path / "run", batch_size=None, rows_per_shard=None)
    plan = plan_run(config)
    assert plan.sizes == Sizes(8, 256)
    assert plan.record.identity.batch_size == 8
    prepare(plan)
    # On another machine it would have been another batch.
    machine = Machine(cpus=4, gpus=1)
    assert plan_run(config, machine=machine).sizes == Sizes(8, 256)
    fresh = inputs.config(tmp_path / "other", batch_size=None, rows_per_shard=None)
    assert plan_run(fresh, machine=machine).sizes == Sizes(32, 256)
    overwriting = plan_run(config, OneCall(overwrite=True), machine=machine)
    assert overwriting.sizes == Sizes(32, 256)


def test_all_runs_are_checked_before_any_is_changed(inputs, tmp_path):
    good, bad = inputs.config(tmp_path / "good"), inputs.config(tmp_path / "bad", model="nowhere")
    with pytest.raises(StaaError, match="nowhere"):
        plan_runs([good, bad])
    assert not (tmp_path / "good").exists()


def test_what_is_wrong_is_named(inputs, tmp_path, run):
    with pytest.raises(ConfigError, match="append: there is no run in"):
        plan_run(inputs.config(tmp_path / "none"), OneCall(append=True))
    with pytest.raises(ConfigError, match="out: memory://run is seen by one process alone"):
        plan_run(inputs.config("memory://run"))
    with pytest.raises(ManifestError, match=r"absent\.parquet"):
        plan_run(inputs.config(run, manifest=str(tmp_path / "absent.parquet")))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "attributions.zarr").write_text("mine")
    with pytest.raises(StoreError, match=r"attributions\.zarr"):
        plan_run(inputs.config(tmp_path / "notes"), OneCall(overwrite=True))
    assert (tmp_path / "notes" / "attributions.zarr").read_text() == "mine"
