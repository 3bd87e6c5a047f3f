"""Latest wins: what waits is one window a stream, and what is skipped is counted."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.status import Status
from pipeline.stream.engine import Engine, Settings, explained_per_s, model_input
from pipeline.stream.explained import SourceState
from pipeline.stream.source import parse_source
from pipeline.stream.windows import WindowPlan
from tests.stream.made import explained, window
from tests.support.clips import numbered_frames, write_mp4
from tests.support.processes import until

PLAN = WindowPlan(
    Sampling("uniform", 4), Preprocessing(shortest_edge=16, crop=(16, 16)), (16, 16), 0.5, 0.1
)
CLASSES = ("a", "b", "c")


class Seen:
    """A viewer that keeps all."""

    def __init__(self):
        self.windows, self.pictures, self.states = [], [], []

    def shown(self, explained):
        self.windows.append((explained, time.monotonic()))

    def picture(self, picture):
        self.pictures.append(picture)

    def status(self, status):
        self.states.append(status)

    def record(self, window, columns):
        self.windows.append((window, columns))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    return write_mp4(folder / "clip.mp4", numbered_frames(60), 30.0)


def engine_of(clip, names, explain=explained, **options):
    sources = [parse_source(f"{name}={clip}") for name in names]
    return Engine(sources, PLAN, explain, CLASSES, **options)


def test_gone_through_fast_every_window_is_explained_once_and_in_order(clip):
    seen, kept, sizes = Seen(), Seen(), []

    def explain(batch):
        sizes.append(len(batch["row"]))
        return explained(batch)

    engine = engine_of(
        clip,
        "abc",
        explain,
        viewers=[seen],
        recorder=kept,
        settings=Settings(batch_size=2, paced=False),
    )
    engine.run()
    for name in "abc":
        numbers = [each.window for each, _ in seen.windows if each.stream == name]
        assert numbers == list(range(16))
        assert [w.number for w, _ in kept.windows if w.stream == name] == numbers
    assert max(sizes) <= 2
    assert {status.state for status in engine.states()} == {SourceState.ENDED}
    assert all(status.skipped == 0 for status in engine.states())
    first, row = seen.windows[0][0], kept.windows[0][1]
    assert np.array_equal(first.spatial, row["spatial"][0].astype(np.float32))
    assert first.top[0][0] == CLASSES[row["top_classes"][0][0]]
    assert seen.pictures


def test_a_slow_model_gets_the_newest_windows_and_the_rest_is_counted(clip):
    seen, held, begun = Seen(), threading.Event(), threading.Event()

    def explain(batch):
        begun.set()
        # As long as all of the others take to become due.
        held.wait(20)
        return explained(batch)

    engine = engine_of(clip, "a", explain, viewers=[seen], settings=Settings(paced=True))
    running = threading.Thread(target=engine.run)
    running.start()
    assert begun.wait(20)
    until(lambda: engine.states()[0].state is SourceState.ENDED, seconds=120)
    held.set()
    running.join(20)
    assert not running.is_alive()
    # The first is any that was due when the engine looked.
    numbers = [each.window for each, _ in seen.windows]
    assert len(numbers) == 2
    assert numbers[-1] == 15
    (status,) = engine.states()
    assert (status.windows, status.skipped) == (2, 14)
    assert seen.windows[-1][0].n_skipped == 14


def test_batches_take_the_longest_waiting_streams_first(clip):
    engine = engine_of(clip, "abc", settings=Settings(batch_size=2))
    for name, newest in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        engine._offer(window(0, name, newest))
    assert [w.stream for w in engine._next_batch()] == ["b", "c"]
    assert [w.stream for w in engine._next_batch()] == ["a"]
    assert engine._next_batch() == []


def test_what_the_model_fails_on_is_counted_told_and_not_shown(clip):
    seen, events = Seen(), []

    def explain(batch):
        columns = explained(batch)
        bad = batch["start_time"] > 0.45
        columns["status"] = np.where(bad, np.uint8(Status.MODEL_ERROR), columns["status"])
        columns["message"] = np.where(bad, "the model gave NaN or infinity", columns["message"])
        return columns

    engine = engine_of(
        clip,
        "a",
        explain,
        viewers=[seen],
        event=lambda *event: events.append(event),
        settings=Settings(paced=False),
    )
    engine.run()
    assert [each.window for each, _ in seen.windows] == [0, 1, 2, 3, 4]
    failed = [values for _, kind, values in events if kind == "failed"]
    assert [values["window"] for values in failed] == list(range(5, 16))
    assert engine.states()[0].skipped == 11


def test_an_error_of_the_model_ends_it_and_its_threads(clip):
    def explain(batch):
        raise RuntimeError("the device is gone")

    engine = engine_of(clip, "ab", explain)
    with pytest.raises(RuntimeError, match="device is gone"):
        engine.run()
    own = {"feed-a", "feed-b", "stream-states"}
    until(lambda: not own & {thread.name for thread in threading.enumerate()})


def test_it_stops_when_it_is_told_to(clip):
    engine = engine_of(clip, "a")
    running = threading.Thread(target=engine.run)
    running.start()
    engine.stop()
    running.join(20)
    assert not running.is_alive()


def test_states_are_told_once_each(clip):
    events = []
    engine = engine_of(clip, "a", event=lambda *event: events.append(event))
    engine.run()
    states = [values["state"] for _, kind, values in events if kind == "state"]
    # On a busy machine it may also be stalled, or late, meanwhile.
    assert states[-1] == "ended"
    assert all(one != other for one, other in pairwise(states))


@pytest.mark.parametrize(
    ("at_s", "now_s", "rate"),
    [
        ((), 5.0, 0.0),
        # One alone says nothing yet.
        ((100.0,), 103.0, 0.0),
        (np.arange(100, 103.5, 0.5), 103.0, 2.0),
        (np.arange(100, 103.5, 0.5), 106.0, 1.0),
        (np.arange(100, 160, 0.5), 159.75, 2.0),
        (np.arange(100, 160, 0.5), 165.0, 1.0),
        (np.arange(100, 160, 0.5), 300.0, 0.0),
        # So many are held, of a stream that gives 500 in a second.
        (100 + np.arange(1000) / 500, 100 + 999 / 500, 500.0),
    ],
)
def test_the_rate_is_that_of_the_time_that_is_known(at_s, now_s, rate):
    assert explained_per_s(tuple(at_s), now_s) == pytest.approx(rate)


def test_windows_become_the_columns_of_clips():
    batch = model_input([window(3), window(7, "door")])
    assert batch["frames"].shape == (2, 4, 16, 16, 3)
    assert batch["video_id"].tolist() == ["cam-00000003", "door-00000007"]
    assert batch["label"].tolist() == [-1, -1]
