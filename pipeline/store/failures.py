"""What became of every row of a run, read from the store alone."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.dataset.manifest import Manifest
from pipeline.errors import StoreError, reason_of
from pipeline.status import Status, failed_rows
from pipeline.storage.files import write_bytes
from pipeline.store.opening import Store
from pipeline.store.run_folder import failures_url


def write_failures(
    run_url: str, store: Store, status: NDArray[np.uint8], manifest: Manifest
) -> str:
    """Write the failed rows of a run to ``failures.parquet`` in its folder.

    Columns: ``row`` int64, ``video_id``, ``path``, ``view`` int64, ``status`` (name) and
    ``message``.

    Parameters
    ----------
    store
        The run's.
    status
        Its ``status`` (clip), which the caller has read already.

    Returns
    -------
    The table's URL

    Raises
    ------
    StoreError
        Names the table, if it can't be written.
    """
    failed = np.flatnonzero(failed_rows(status))
    messages = store.array("message").get_orthogonal_selection((failed,)) if len(failed) else []
    views = store.record.views
    found = manifest.take(views.video(failed))
    table = pa.table(
        {
            "row": pa.array(failed, pa.int64()),
            "video_id": found["video_id"],
            "path": found["path"],
            "view": pa.array(views.view(failed), pa.int64()),
            "status": pa.array([Status(code).label for code in status[failed]], pa.string()),
            "message": pa.array([str(text) for text in messages], pa.string()),
        }
    )
    url = failures_url(run_url)
    try:
        write_failures_table(table, url)
    except OSError as error:
        raise StoreError(f"can't write {url}: {reason_of(error)}") from error
    return url


def write_failures_table(table: pa.Table, url: str) -> None:
    """Write the table, or what is left of it; raises as `write_bytes` does."""
    written = pa.BufferOutputStream()
    pq.write_table(table, written)
    write_bytes(url, memoryview(written.getvalue()))
