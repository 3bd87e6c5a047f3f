"""The count of committed rows: each shard once, shown, and never in the way of a writer."""

import ray

from pipeline.execution.counter import Progress, count_shard, shown_progress
from pipeline.execution.metrics import RunMetrics

METRICS = RunMetrics("test")


def test_the_bar_goes_on_from_what_an_earlier_run_did(local_ray, capsys):
    with shown_progress(METRICS, 20, 8) as progress:
        count_shard(progress, 8, {"ok": 3, "missing": 1}, 100)
        count_shard(progress, 12, {"ok": 2, "missing": 1, "empty": 1}, 100)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "16/20" in last
    assert "failed=3" in last


def test_a_shard_that_is_committed_twice_is_counted_once():
    progress = Progress(METRICS, 8)
    for _ in range(2):
        progress.add(4, {"ok": 3, "missing": 1}, 100)
    progress.add(0, {"ok": 4}, 100)
    assert progress.counts() == (8, 1)


def test_a_count_that_is_lost_fails_neither_the_writers_nor_the_driver(local_ray, capsys):
    with shown_progress(METRICS, 4, 0) as progress:
        ray.kill(progress)
        count_shard(progress, 0, {"ok": 4}, 100)
    assert "0/4" in capsys.readouterr().err
