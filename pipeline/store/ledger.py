"""A run's store as its driver sees it: which rows are left, how fast it goes, what became of all.

The driver opens the store each time it needs the present state, which also shows that the store is
still there. The rows themselves are written by workers, through `pipeline.store.shards`.
"""

from contextlib import suppress
from dataclasses import dataclass

from pipeline.dataset.manifest import Manifest
from pipeline.errors import StorageError, StoreGoneError
from pipeline.status import Status
from pipeline.store.create import consolidate, unconsolidate
from pipeline.store.failures import write_failures
from pipeline.store.lease import Lease
from pipeline.store.opening import Absent, Foreign, find_store, open_store
from pipeline.store.pace import Pace, write_pace
from pipeline.store.pending import PendingRows, pending_rows, read_status
from pipeline.store.state import RunSummary, summarise


@dataclass(frozen=True)
class Ledger:
    """What the driver of a run reads and writes of its store."""

    run_url: str
    """Folder of the run."""
    store_url: str
    manifest: Manifest
    """The run's."""
    lease: Lease | None = None
    """Held by the driver; None if the run has no owner."""

    def begin(self) -> PendingRows:
        """Read which rows are to be computed, and make the store ready for them.

        Raises
        ------
        StoreError
            If the store isn't there, or can't be read or written.
        """
        store = open_store(self.store_url, mode="r+")
        pending = pending_rows(store)
        if pending.n_rows:
            unconsolidate(store)
        return pending

    def left(self) -> PendingRows:
        """Read which rows are pending by now.

        Raises
        ------
        StoreError
            As `begin` does.
        LeaseLostError
            If the run is somebody else's by now.
        """
        left = pending_rows(open_store(self.store_url))
        self._check_lease()
        return left

    def note(self, pace: Pace) -> None:
        """Note how fast the run goes, for whoever asks: a run doesn't fail for it."""
        with suppress(StorageError, OSError):
            write_pace(self.run_url, pace)

    def close(self) -> RunSummary:
        """Say what became of every row, and write ``failures.parquet``; ``seconds`` is left 0.

        Raises
        ------
        StoreError, LeaseLostError
            As `left` does, and if the table can't be written.
        ManifestError, OSError
            If the names of the clips can't be read.
        """
        store = open_store(self.store_url, mode="r+")
        status = read_status(store)
        self._check_lease()
        write_failures(self.run_url, store, status, self.manifest)
        if (status != Status.PENDING).all():
            consolidate(store)
        return summarise(status, seconds=0)

    def explained(self, error: Exception) -> StorageError:
        """Give the error to raise in place of one that ended the run: the store may be gone."""
        gone = f"{self.store_url} was deleted while the run went on"
        match find_store(self.store_url):
            case Absent():
                return StoreGoneError(gone)
            case Foreign():
                return StoreGoneError(f"{gone}; delete what was written there since")
        return StorageError(str(error))

    def _check_lease(self) -> None:
        if self.lease is not None:
            self.lease.check()
