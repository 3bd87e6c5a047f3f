"""The tally as an actor: what the processes of a run tell it, and that it may be lost."""

import time

import numpy as np
import pytest
import ray

from pipeline.execution.counter import tally_channel
from pipeline.run.tally import Commit, Fault
from tests.support.processes import until


@ray.remote(num_cpus=0)
def work(channel):
    """Fail on rows 4 to 7 as a task of a run does, after it has decoded two clips."""
    channel.decoded(4)
    channel.decoded(5)
    with channel.step("decode", np.arange(4, 8)):
        raise ValueError("no such\nstorage")


def test_a_worker_tells_as_values_what_it_did_and_what_it_failed_on(local_ray):
    with tally_channel("test", rows_per_shard=4, n_pending=8) as channel:
        with pytest.raises(ValueError, match="no such"):
            ray.get(work.remote(channel))
        until(lambda: channel.progress().decoded == 2, seconds=60)
        assert channel.end_pass() == (Fault("decode", "no such storage", (4, 7)),)
        assert channel.end_pass() == ()
        channel.commit(Commit(0, {"ok": 3, "missing": 1}, 100))
        progress = channel.progress()
        assert (progress.committed, progress.failed) == (4, 1)


def test_who_is_at_work_is_heard_though_there_is_nothing_to_report(local_ray):
    with tally_channel("test", rows_per_shard=4, n_pending=8) as channel:
        channel.progress()  # The actor is there.
        time.sleep(1)
        before = channel.progress().silent_s
        assert before >= 1
        with channel.at_work():
            until(lambda: channel.progress().silent_s < before, seconds=60)


def test_that_the_actor_is_lost_fails_nobody(local_ray):
    with tally_channel("test", rows_per_shard=4, n_pending=8) as channel:
        ray.kill(channel.actor)
        channel.commit(Commit(0, {"ok": 4}, 100))
        channel.fault(Fault("write", "no space", (0, 3)))
        channel.decoded(0)
        assert channel.progress() is None
        assert channel.end_pass() == ()
