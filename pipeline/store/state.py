"""How far a run is, read from its store alone: also while the run is going on, and after a crash.

Needs neither torch nor Ray, nor the manifest, the clips or the model.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.storage.files import open_filesystem
from pipeline.storage.retries import with_retries
from pipeline.store.opening import DAMAGE, Store, open_store
from pipeline.store.pace import Pace, read_pace
from pipeline.store.pending import read_status
from pipeline.store.run_folder import store_url

_MODIFIED_KEYS = ("mtime", "LastModified", "last_modified", "updated")
"""What local disks, S3, Azure and Google Cloud call an object's time of writing in fsspec."""


@dataclass(frozen=True)
class RunSummary:
    """Rows by status, and the time that the run took."""

    counts: dict[Status, int]
    """Rows of each status that occurs."""
    seconds: float
    """Time spent on attributing, s; 0 where nothing was left to do."""
    bounded: str = ""
    """How fast that was, and what kept it from being faster; empty where it isn't known."""
    broken_by: str = ""
    """What broke the last pass off, of a run that has left rows pending."""

    @property
    def n_rows(self) -> int:
        """Rows of the run."""
        return sum(self.counts.values())

    @property
    def n_pending(self) -> int:
        """Rows that are not accounted for."""
        return self.counts.get(Status.PENDING, 0)

    @property
    def n_failed(self) -> int:
        """Rows that failed, whatever the reason."""
        return sum(count for status, count in self.counts.items() if status.failed)

    @property
    def n_too_short(self) -> int:
        """Rows whose clip has fewer frames than the model sees."""
        return self.counts.get(Status.TOO_SHORT, 0)

    @property
    def failed_fraction(self) -> float:
        """Share of the rows that failed, those that are too short aside where any row is ok.

        That a clip is shorter than the model's window is no fault of data, storage or machine.
        """
        aside = self.n_too_short if self.counts.get(Status.OK) else 0
        return (self.n_failed - aside) / self.n_rows

    def __str__(self) -> str:
        """One line: rows, and the count of each status."""
        counts = ", ".join(f"{count} {status.label}" for status, count in self.counts.items())
        return f"{self.n_rows} clips: {counts}"


@dataclass(frozen=True)
class FailureExample:
    """The first clip of a run that failed in some way."""

    row: int
    video_id: str
    message: str


@dataclass(frozen=True)
class RunState:
    """What a run's store says of the run."""

    run: str
    """Short name, as in logs and metrics."""
    store: str
    """URL of the store."""
    summary: RunSummary
    """Rows by status."""
    n_shards: int
    n_shards_done: int
    """Shards without a pending row."""
    examples: dict[Status, FailureExample]
    """The first row of each way to fail that occurs."""
    last_written: datetime | None
    """When a shard was committed last, UTC; None where none is or the storage doesn't say."""
    pace: Pace | None
    """How fast it goes or went, and what bounded it; None where that isn't noted."""
    model: dict[str, Any]
    manifest: dict[str, Any]
    sampling: dict[str, Any]
    views: dict[str, Any]
    method: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As plain values, with every way to fail under its name."""
        counts = {status.label: count for status, count in self.summary.counts.items()}
        return {
            "run": self.run,
            "store": self.store,
            "complete": self.summary.n_pending == 0,
            "rows": {
                "total": self.summary.n_rows,
                "done": self.summary.n_rows - self.summary.n_pending,
                "pending": self.summary.n_pending,
                "failed": self.summary.n_failed,
                "by_status": counts,
            },
            "shards": {"total": self.n_shards, "done": self.n_shards_done},
            "failures": {status.label: asdict(first) for status, first in self.examples.items()},
            "last_written": self.last_written and self.last_written.isoformat(timespec="seconds"),
            "pace": self.pace and self.pace.to_json(),
            "model": self.model,
            "manifest": self.manifest,
            "sampling": self.sampling,
            "views": self.views,
            "method": self.method,
        }


def read_state(run_url: str) -> RunState:
    """Read how far a run is.

    Reads the status of every row (an object for each shard that is done), one listing of these, and
    a message for each way to fail that occurs.

    Raises
    ------
    StoreError
        If there is no store in the run's folder, or an object of it is damaged; names it.
    """
    url = store_url(run_url)
    store = open_store(url)
    layout, record = store.layout, store.record
    status = read_status(store)
    pending = np.unique(np.flatnonzero(status == Status.PENDING) // layout.rows_per_shard)
    summary = summarise(status, seconds=0)
    identity = record.identity.model_dump(mode="json")
    return RunState(
        run=record.run_id(run_url),
        store=url,
        summary=summary,
        n_shards=layout.n_shards,
        n_shards_done=layout.n_shards - len(pending),
        examples={
            code: _example(store, int(np.argmax(status == code)))
            for code in summary.counts
            if code.failed
        },
        last_written=_last_written(f"{url}/status/c"),
        pace=read_pace(run_url),
        model=record.model.model_dump(),
        manifest={"url": record.config["manifest"], "digest": identity["manifest"]},
        sampling=identity["sampling"],
        views=identity["views"],
        method=identity["method"],
    )


def summarise(status: NDArray[np.uint8], *, seconds: float) -> RunSummary:
    """Count the rows of a run by their ``status`` (clip)."""
    codes, counts = np.unique(status, return_counts=True)
    return RunSummary(
        {Status(code): int(count) for code, count in zip(codes, counts, strict=True)}, seconds
    )


def _example(store: Store, row: int) -> FailureExample:
    values = {}
    for name in ("video_id", "message"):
        try:
            values[name] = str(store.array(name)[row])
        except DAMAGE as error:
            raise StoreError(f"{store.url}/{name}: row {row} can't be read") from error
    return FailureExample(row, **values)


def _last_written(folder: str) -> datetime | None:
    filesystem, path = open_filesystem(folder)
    try:
        entries = with_retries(folder, lambda: filesystem.ls(path, detail=True, refresh=True))
    except FileNotFoundError:
        return None
    values = [entry[key] for entry in entries for key in _MODIFIED_KEYS if entry.get(key)]
    return max(map(_as_time, values), default=None)


def _as_time(value: Any) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value if isinstance(value, datetime) else datetime.fromtimestamp(value, UTC)
