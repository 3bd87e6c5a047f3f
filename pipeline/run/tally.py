"""How far a run is and what has gone wrong, reported by its workers and kept in one place.

Whoever works on a batch has a `Channel`. Through it the run's one `Tally` hears, as values, which
rows were decoded and explained, which shards were committed, and which rows a step failed on. On
Ray the tally is an actor; in a serial run it is a plain object.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ManifestChangedError, ManifestError, reason_of
from pipeline.logs import LogFormat
from pipeline.run.progress_bar import progress_bar
from pipeline.status import Status
from pipeline.store.pace import Pace
from pipeline.text import without_credentials

Stage = Literal["read", "decode", "explain", "write", "fetch", "transfer"]
"""Step of a run, in the order that rows go through them; behind them parts of steps: waiting for a
clip's bytes, which is part of decoding, and for the device to have a batch, part of explaining."""
_PARTS = ("fetch", "transfer")

_LOGGER = logging.getLogger(__name__)
_POLL_S = 0.5


@dataclass(frozen=True)
class Fault:
    """A step that failed, and the rows that it failed on."""

    stage: Stage
    reason: str
    """On one line, without credentials."""
    rows: tuple[int, int] | None
    """First and last row of the batch; None if the fault doesn't concern particular rows."""

    def __str__(self) -> str:
        """One line that names the rows."""
        return f"rows {self.rows[0]} to {self.rows[1]}: {self.reason}" if self.rows else self.reason


@dataclass(frozen=True)
class Commit:
    """A shard that was committed."""

    first_row: int
    counts: Mapping[str, int]
    """Rows that the run computed, by the name of their status."""
    n_bytes: int
    """Size of what is stored of these rows, uncompressed."""


@dataclass(frozen=True)
class Report:
    """What a process has done since its last report; an empty report says that it is at work."""

    decoded: Sequence[int] = ()
    """Row numbers."""
    explained: Sequence[int] = ()
    """Row numbers."""
    seconds: Mapping[Stage, float] = field(default_factory=dict)
    """Time that steps took, s."""


@dataclass(frozen=True)
class Progress:
    """How far a run is; rows of earlier calls aren't counted."""

    decoded: int
    explained: int
    committed: int
    failed: int
    """Rows that failed, of those that are committed."""
    seconds: Mapping[Stage, float]
    """Time that each step took, summed over all processes, s."""
    silent_s: float
    """Time since any worker of the run was heard."""
    working_s: float = 0.0
    """Time from the start of the step that decodes first to the last report of any worker."""
    n_models: int = 0
    """Processes that held a model at once."""


class Tally:
    """Counts each row once, however often it is computed or committed."""

    def __init__(self, rows_per_shard: int) -> None:
        self._rows_per_shard = rows_per_shard
        self._committed: set[int] = set()
        self._counts: Counter[str] = Counter()
        # By shard, of those that aren't committed yet.
        self._decoded: defaultdict[int, set[int]] = defaultdict(set)
        self._explained: defaultdict[int, set[int]] = defaultdict(set)
        self._seconds: Counter[Stage] = Counter()
        self._faults: list[Fault] = []
        self._heard_at_s = time.monotonic()
        self._began_at_s: float | None = None
        self._n_models = self._most_models = 0

    def hold_model(self) -> None:
        """Take down that one more process holds a model, until the pass ends."""
        self._n_models += 1
        self._most_models = max(self._most_models, self._n_models)

    def report(self, report: Report) -> None:
        """Take down what a process has done."""
        self._heard_at_s = time.monotonic()
        if report.decoded:
            # The time that its step has taken is part of the work, and is told when it is over:
            # behind the first clips.
            began_at_s = self._heard_at_s - report.seconds.get("decode", 0.0)
            self._began_at_s = min(began_at_s, self._began_at_s or began_at_s)
        self._add(self._decoded, report.decoded)
        self._add(self._explained, report.explained)
        self._seconds.update(report.seconds)

    def commit(self, commit: Commit) -> bool:
        """Take down a shard; False if it is known already."""
        self._heard_at_s = time.monotonic()
        shard = commit.first_row // self._rows_per_shard
        if shard in self._committed:
            return False
        self._committed.add(shard)
        self._counts.update(commit.counts)
        self._decoded.pop(shard, None)
        self._explained.pop(shard, None)
        return True

    def fault(self, fault: Fault) -> None:
        """Take down what a step failed on."""
        self._heard_at_s = time.monotonic()
        self._faults.append(fault)

    def end_pass(self) -> tuple[Fault, ...]:
        """Give the faults since the last pass, and forget them and what isn't committed."""
        faults = tuple(self._faults)
        self._faults.clear()
        self._decoded.clear()
        self._explained.clear()
        self._n_models = 0
        self._heard_at_s = time.monotonic()
        return faults

    def progress(self) -> Progress:
        """Say how far the run is."""
        committed = self._counts.total()
        explained = committed + sum(map(len, self._explained.values()))
        decoded = committed + sum(map(len, self._decoded.values()))
        return Progress(
            decoded=max(decoded, explained),
            explained=explained,
            committed=committed,
            failed=committed - self._counts[Status.OK.label],
            seconds=dict(self._seconds),
            silent_s=time.monotonic() - self._heard_at_s,
            working_s=self._heard_at_s - (self._began_at_s or self._heard_at_s),
            n_models=self._most_models,
        )

    def _add(self, rows_of_shard: defaultdict[int, set[int]], rows: Sequence[int]) -> None:
        for row in rows:
            shard = row // self._rows_per_shard
            if shard not in self._committed:
                rows_of_shard[shard].add(row)


class Channel(ABC):
    """The way from a process that works on rows to the run's tally."""

    @contextmanager
    def step(self, stage: Stage, rows: NDArray[np.int64]) -> Iterator[None]:
        """Work on some rows while open; a failure is told with its rows before it is raised."""
        started_s = time.perf_counter()
        try:
            with self.at_work(), self.timed(stage):
                yield
        except Exception as error:
            # The manifest is lost or changed for all rows.
            of_all = isinstance(error, ManifestChangedError | ManifestError) or not len(rows)
            reason = without_credentials(reason_of(error))
            self.fault(Fault(stage, reason, None if of_all else (int(rows[0]), int(rows[-1]))))
            raise
        done: list[int] = rows.tolist()
        self.report(
            Report(
                decoded=done if stage == "decode" else (),
                explained=done if stage == "explain" else (),
                seconds={stage: time.perf_counter() - started_s},
            )
        )

    def decoded(self, row: int) -> None:
        """Tell that a clip was decoded, in the middle of a step."""
        self.report(Report(decoded=(row,)))

    def holds_model(self) -> None:  # noqa: B027 (there is nothing to tell in one process)
        """Tell that this process holds a model until the pass ends."""

    def at_work(self) -> AbstractContextManager[None]:
        """While open, the tally hears that this process is at work."""
        return nullcontext()

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """While open, measure the time of a step or of a part of it, for those who watch."""
        return nullcontext()

    @contextmanager
    def part(self, stage: str) -> Iterator[None]:
        """Work on a part of a step while open; the tally hears of it if it is one of `_PARTS`."""
        started_s = time.perf_counter()
        with self.timed(stage):
            yield
        if stage in _PARTS:
            self.report(Report(seconds={cast(Stage, stage): time.perf_counter() - started_s}))

    @abstractmethod
    def report(self, report: Report) -> None:
        """Tell what was done."""

    @abstractmethod
    def commit(self, commit: Commit) -> None:
        """Tell of a shard that was committed."""

    @abstractmethod
    def fault(self, fault: Fault) -> None:
        """Tell what a step failed on."""


@dataclass(frozen=True)
class LocalChannel(Channel):
    """The way to a tally in the same process."""

    tally: Tally

    def report(self, report: Report) -> None:
        """Tell what was done."""
        self.tally.report(report)

    def commit(self, commit: Commit) -> None:
        """Tell of a shard that was committed."""
        self.tally.commit(commit)

    def fault(self, fault: Fault) -> None:
        """Tell what a step failed on."""
        self.tally.fault(fault)

    def holds_model(self) -> None:
        """Tell that this process holds a model."""
        self.tally.hold_model()


def pace_of(
    progress: Progress, *, n_cpus: float, n_writers: int, in_turn: bool = False
) -> Pace | None:
    """Say how fast a run was, and how busy each part; None before anything is stored.

    The time of a step is time on the clock, so it includes waiting for a CPU that others use.

    Parameters
    ----------
    n_cpus
        Tasks that decode at once.
    n_writers
        Shards that are written at once.
    in_turn
        Whether decoding and the model take turns: more cores would change nothing then.
    """
    if not progress.working_s or not progress.committed:
        return None
    seconds: dict[str, float] = dict.fromkeys(get_args(Stage), 0.0) | dict(progress.seconds)
    n_models = max(1, progress.n_models)
    decode_s = max(0.0, seconds["decode"] - seconds["fetch"])

    def busy(spent_s: float, n_at_once: float) -> float:
        return min(1.0, spent_s / (progress.working_s * n_at_once))

    clips_per_model_s = progress.explained / seconds["explain"] if seconds["explain"] else 0.0
    wanted = n_models * clips_per_model_s * decode_s / max(1, progress.decoded)
    if in_turn or progress.failed == progress.committed:
        # In the latter case no model has had a clip, and how many it would take isn't known.
        wanted = 0.0
    return Pace(
        clips_per_s=progress.committed / progress.working_s,
        busy={
            "decode": busy(decode_s, n_cpus),
            "transfer": busy(seconds["transfer"], n_models),
            "model": busy(max(0.0, seconds["explain"] - seconds["transfer"]), n_models),
            "storage": max(busy(seconds["fetch"], n_cpus), busy(seconds["write"], n_writers)),
        },
        cores_lacking=max(0.0, wanted - n_cpus),
    )


@contextmanager
def shown_progress(
    read: Callable[[], Progress | None],
    *,
    n_rows: int,
    n_done: int,
    verb: str = "attribute",
    log_format: LogFormat = "text",
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[None]:
    """While open, show rows explained, clips/s, time left, and rows decoded, stored and failed.

    Parameters
    ----------
    read
        Gives how far the run is; None if that can't be said now.
    n_rows
        Rows of the whole run.
    n_done
        Rows that an earlier call has done.
    verb
        What the bar begins with.
    watch
        Called with each progress that was read, from a thread.
    """
    stop = threading.Event()
    logger = _LOGGER if log_format == "json" else None
    bar = progress_bar(total=n_rows, initial=n_done, unit="clip", desc=verb, logger=logger)
    shown_any = False

    def update() -> None:
        nonlocal shown_any
        if (progress := read()) is None:
            return
        bar.set_postfix(
            decoded=progress.decoded,
            stored=progress.committed,
            failed=progress.failed,
            refresh=False,
        )
        bar.update(n_done + progress.explained - bar.n)
        if progress.decoded and not shown_any:
            # A log gets a line only now and then, and its reader waits for the first sign of life.
            shown_any = True
            bar.refresh()
        watch(progress)

    def follow() -> None:
        while not stop.wait(_POLL_S):
            update()

    follower = threading.Thread(target=follow, name="progress", daemon=True)
    follower.start()
    try:
        yield
    finally:
        stop.set()
        # After a shutdown of Ray, a call of the thread would start another one.
        follower.join()
        update()
        bar.close()
