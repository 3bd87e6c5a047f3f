"""Runs ``jobs.attribute``, but slower, and notes each clip that it starts to decode or to explain.

A test that runs it (``python -m tests.support.noting_job``) sets the folder for notes by `NOTES`.
"""

import json
import os
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.execution.passes import execute
from pipeline.models.attributor import Attributor
from pipeline.run.job import real_stages
from pipeline.store.shards import write_shard
from tests.support.runs import run_attribute

NOTES = "STAA_TEST_NOTES"
"""Environment variable with the folder for notes."""
STEP_S = 0.05
"""Least time that a step takes, sleeping, so that there is time to disturb a run."""


def note(folder, what, rows):
    """Append row numbers, one per line, in one write: readers see them as soon as this returns."""
    with (Path(folder) / what).open("ab", buffering=0) as file:
        file.write("".join(f"{row}\n" for row in rows).encode())


def noted(folder, what):
    """Row numbers, in the order in which they were noted."""
    file = Path(folder) / what
    return [int(row) for row in file.read_text().split()] if file.exists() else []


def told_commits(ray_folder, lost=()):
    """Count how often write tasks logged each shard's commit, in a Ray with its files below.

    What processes have logged whose ids are among the ``lost`` doesn't count.
    """
    records = [
        json.loads(line)
        for log in Path(ray_folder).rglob("worker-*.err")
        if int(log.stem.rpartition("-")[2]) not in lost
        for line in log.read_text().splitlines()
        if line.startswith("{") and '"shard committed"' in line
    ]
    return Counter(record["shard"] for record in records)


class NotingLoader:
    def __init__(self, loader, folder):
        self._loader, self._folder = loader, folder

    def __call__(self, rows):
        note(self._folder, "decoded", rows["row"])
        time.sleep(STEP_S)
        return self._loader(rows)


class NotingAttributor(Attributor):
    def __init__(self, folder, **arguments):
        super().__init__(**arguments)
        self._folder = folder

    def __call__(self, batch):
        note(self._folder, "explained", batch["row"])
        time.sleep(STEP_S)
        return super().__call__(batch)


def write_slowly(group, columns, rows, **known):
    """Take time on both sides of the commit."""
    time.sleep(STEP_S)
    written = write_shard(group, columns, rows, **known)
    time.sleep(STEP_S)
    return written


def noting_stages(folder, plan, device, channel):
    stages = real_stages(plan, device, channel)
    return replace(
        stages,
        load=NotingLoader(stages.load, folder),
        attribute=NotingAttributor,
        attribute_arguments={**stages.attribute_arguments, "folder": folder},
        write=write_slowly,
    )


if __name__ == "__main__":
    stages_of = partial(noting_stages, os.environ[NOTES])
    sys.exit(run_attribute(sys.argv[1:], partial(execute, stages_of=stages_of)))
