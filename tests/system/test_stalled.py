"""Passes that break off and runs that stand still: the next pass is alone, and nobody waits."""

import os
import re
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from pipeline.execution.passes import execute
from pipeline.models.attributor import Attributor
from pipeline.run.job import Limits, real_stages
from pipeline.store.shards import write_shard
from tests.support.processes import HANG_S
from tests.support.runs import assert_same_columns, prepared, run_attribute, stored_columns

pytestmark = pytest.mark.slow


class StuckAttributor(Attributor):
    """Notes its process and those of others that are alive, and is stuck in the first pass."""

    def __init__(self, folder, **arguments):
        self._folder = folder
        alive = [path.name for path in folder.glob("[0-9]*") if Path("/proc", path.name).exists()]
        (folder / f"{os.getpid()}").write_text(" ".join(alive))
        super().__init__(**arguments)

    def __call__(self, batch):
        if 8 in batch["row"] and not (self._folder / "stuck").exists():
            (self._folder / "stuck").touch()
            time.sleep(HANG_S)
        return super().__call__(batch)


@dataclass(frozen=True)
class WriteThatFailsOnce:
    """Fails in the first pass, once a shard is stored and the model is stuck."""

    folder: Path

    def __call__(self, group, columns, rows, **known):
        if rows[0] == 4 and not (self.folder / "failed").exists():
            deadline = time.monotonic() + HANG_S
            while not all((self.folder / name).exists() for name in ("stored", "stuck")):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            (self.folder / "failed").touch()
            raise OSError("the disk was away")
        written = write_shard(group, columns, rows, **known)
        (self.folder / "stored").touch()
        return written


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_the_models_of_a_broken_pass_are_gone_when_the_next_ones_start(
    finished_run, tmp_path, caplog
):
    def stages_of(*arguments):
        stages = real_stages(*arguments)
        return replace(
            stages,
            attribute=StuckAttributor,
            attribute_arguments={**stages.attribute_arguments, "folder": tmp_path},
            write=WriteThatFailsOnce(tmp_path),
        )

    plan = prepared(finished_run.inputs.config(tmp_path / "run"))
    assert execute(plan, stages_of=stages_of).n_pending == 0
    assert re.search(
        r"rows 4 to 7: can't write .*attributions.zarr: the disk was away", caplog.text
    )
    notes = [path.read_text() for path in tmp_path.glob("[0-9]*")]
    assert len(notes) >= 2
    assert set(notes) == {""}
    assert_same_columns(stored_columns(tmp_path / "run"), stored_columns(finished_run.out))


def test_a_run_that_nobody_works_on_is_ended_with_a_line(finished_run, tmp_path, capsys):
    # No machine of the cluster has a GPU, and one may join.
    flags = finished_run.inputs.flags(tmp_path / "run", "--device=cuda")
    limits = Limits(stall_s=20, growing_stall_s=20)
    assert run_attribute(flags, partial(execute, limits=limits)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"attribute: error: nobody has worked on the run for \d+ s: of 8 CPUs", last)
    assert last.endswith("what was finished is kept, and the same command goes on")
