"""Interventions on Ray give what one process gives, and go on where they were cut off."""

import pytest

from pipeline.errors import ClusterError
from pipeline.evaluation.interventions import (
    Intervention,
    InterventionStage,
    OutcomeFolder,
    carry_out,
    in_parts,
)
from pipeline.execution.interventions import carry_out_on_ray
from pipeline.run.job import real_stages
from pipeline.run.row_loader import RowLoader
from pipeline.run.tally import LocalChannel, Tally
from tests.support.runs import prepared, write_inputs


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interventions")
    plan = prepared(write_inputs(folder, 5, {3: "truncated"}).config(folder / "run"))
    load = real_stages(plan, "cpu", LocalChannel(Tally(4))).load
    loader = RowLoader(plan.manifest, plan.views, load)
    return InterventionStage(plan.checkpoint, loader, "cpu", batch_size=4, n_threads=1)


WANTED = [
    Intervention(row, target, "replace", "blur", (0, 2), (0, 1), (0, 2))
    for row in range(5)
    for target in (0, 3)
]


def read(folder, parts):
    return [folder.read(part) for part in parts]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_on_ray_outcomes_are_those_of_one_process_and_what_is_kept_is_not_done_again(
    stage, tmp_path
):
    parts = in_parts(WANTED, 2)
    here = OutcomeFolder.of_plan(str(tmp_path / "here"), WANTED, "run")
    assert list(carry_out(stage, WANTED, parts, here)) == parts
    expected = read(here, parts)
    assert [outcome.probability is None for outcome in expected[1]] == [False, False, True, True]

    there = OutcomeFolder.of_plan(str(tmp_path / "there"), WANTED, "run")
    done = carry_out_on_ray(stage, WANTED, parts, there, n_models=2)
    assert sorted(part.start for part in done) == [part.start for part in parts]
    assert read(there, parts) == expected
    assert list(carry_out_on_ray(stage, WANTED, [], there, n_models=2)) == []


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_what_fails_again_and_again_is_one_line_and_what_was_done_is_kept(stage, tmp_path):
    parts = in_parts(WANTED, 1)
    wanted = [*WANTED[:6], *(Intervention(3, 99) for _ in range(2)), *WANTED[8:]]
    # Class 99 isn't there; row 3 can't be read, so that the fault is in another row.
    wanted[-1] = Intervention(4, 99)
    folder = OutcomeFolder.of_plan(str(tmp_path), wanted, "run")
    with pytest.raises(ClusterError) as caught:
        list(carry_out_on_ray(stage, wanted, parts, folder, n_models=1))
    assert "\n" not in str(caught.value)
    kept = read(folder, parts)
    assert kept[-1] is None
    assert sum(outcomes is not None for outcomes in kept) >= 1
