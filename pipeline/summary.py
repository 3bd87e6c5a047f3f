"""What became of every row of a run, read from the store alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from zarr.core.group import Group

from pipeline.manifest import Manifest
from pipeline.status import Status, failed_rows
from pipeline.storage import write_bytes
from pipeline.store import in_run, store_layout

FAILURES_NAME = "failures.parquet"
"""Name of the table of failed clips in a run's folder."""


@dataclass(frozen=True)
class RunSummary:
    """Rows by status, and the time that the run took."""

    counts: dict[Status, int]
    """Rows of each status that occurs."""
    seconds: float
    """Time spent on attributing, s; 0 where nothing was left to do."""

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
    def failed_fraction(self) -> float:
        """Share of the rows that failed."""
        return self.n_failed / self.n_rows

    def __str__(self) -> str:
        """One line: rows, and the count of each status."""
        counts = ", ".join(f"{count} {status.label}" for status, count in self.counts.items())
        return f"{self.n_rows} clips: {counts}"


def summarise(status: NDArray[np.uint8], *, seconds: float) -> RunSummary:
    """Count the rows of a run by their ``status`` (clip)."""
    codes, counts = np.unique(status, return_counts=True)
    return RunSummary(
        {Status(code): int(count) for code, count in zip(codes, counts, strict=True)}, seconds
    )


def write_failures(
    run_url: str, group: Group, status: NDArray[np.uint8], manifest: Manifest
) -> str:
    """Write the failed rows of a run to ``failures.parquet`` in its folder.

    Columns: ``row`` int64, ``video_id``, ``path``, ``view`` int64, ``status`` (name) and
    ``message``.

    Parameters
    ----------
    group
        The run's store.
    status
        Its ``status`` (clip), which the caller has read already.

    Returns
    -------
    The table's URL
    """
    failed = np.flatnonzero(failed_rows(status))
    stored: Any = group["message"]
    messages = stored.get_orthogonal_selection((failed,)) if len(failed) else []
    n_views = store_layout(group).n_views
    found = manifest.take(failed // n_views)
    table = pa.table(
        {
            "row": pa.array(failed, pa.int64()),
            "video_id": found["video_id"],
            "path": found["path"],
            "view": pa.array(failed % n_views, pa.int64()),
            "status": pa.array([Status(code).label for code in status[failed]], pa.string()),
            "message": pa.array([str(text) for text in messages], pa.string()),
        }
    )
    url = failures_url(run_url)
    written = pa.BufferOutputStream()
    pq.write_table(table, written)
    write_bytes(url, memoryview(written.getvalue()))
    return url


def failures_url(run_url: str) -> str:
    """Where the table of failed clips is in a run's folder."""
    return in_run(run_url, FAILURES_NAME)
