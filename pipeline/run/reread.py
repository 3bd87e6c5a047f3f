"""Rows whose files a run reads again: which of these files have been replaced since.

A row is read again if it had failed and is retried, if an object of its shard was damaged, or if
its shard was cut off while it was written. The store still has the digest of the bytes that were
read then.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.columns import DIGEST_BYTES
from pipeline.run.frames import reading_frames
from pipeline.run.plan import Plan
from pipeline.status import Status
from pipeline.store.opening import DAMAGE, Found, Store, find_store, open_store
from pipeline.store.pending import read_status

_N_READERS = 16
"""Shards whose digests are read at once: the time is that of the storage's answers."""
_N_NAMED = 3


@dataclass(frozen=True)
class ReadBefore:
    """Rows that are to be read again, with the digests of the files that they were read from."""

    rows: NDArray[np.int64]
    """In order."""
    digests: NDArray[np.uint8]
    """(rows, `DIGEST_BYTES`)"""


def read_before(plan: Plan) -> ReadBefore:
    """Look up what a run will read again, before anything is prepared.

    Raises
    ------
    StoreError
        As `find_store` and `read_status` do.
    """
    target = find_store(plan.store_url)
    if not isinstance(target, Found) or plan.call.overwrite:
        return ReadBefore(np.empty(0, np.int64), np.empty((0, DIGEST_BYTES), np.uint8))
    again = (Status.PENDING, *plan.call.statuses_to_retry)
    rows = np.flatnonzero(np.isin(read_status(target.store), again))
    digests = _digests(target.store, rows)
    known = digests.any(axis=1)
    return ReadBefore(rows[known], digests[known])


def reading_again(plan: Plan, store: Store, rows: NDArray[np.int64]) -> Plan:
    """Let some rows of a finished run be read again, to look at them and not to store them.

    Frames are those of the run's cache, where they are in it. A clip whose file is another than the
    one that the run has read is ``UNREADABLE``, with a message that says so.

    Parameters
    ----------
    store
        The run's.
    rows
        In order.
    """
    digests = _digests(store, rows)
    known = {
        row: digest.tobytes()
        for row, digest in zip(rows.tolist(), digests, strict=True)
        if digest.any()
    }
    return replace(reading_frames(plan), known_digests=known)


def changed_files(plan: Plan, before: ReadBefore) -> str:
    """Say on one line which rows' files have been replaced; empty if none has.

    Raises
    ------
    StoreError, ManifestError
        As reading the store and the manifest does.
    """
    if not len(before.rows):
        return ""
    digests = _digests(open_store(plan.store_url), before.rows)
    # A file that isn't there any more, or wasn't read yet, has no new digest.
    changed = before.rows[digests.any(axis=1) & (digests != before.digests).any(axis=1)]
    if not len(changed):
        return ""
    named = changed[:_N_NAMED]
    paths = plan.manifest.take(np.unique(plan.views.video(named)))["path"].to_pylist()
    path_of = dict(zip(np.unique(plan.views.video(named)).tolist(), paths, strict=True))
    told = [f"row {row} ({path_of[plan.views.video(row)]})" for row in named.tolist()]
    more = f" and {len(changed) - _N_NAMED} more" if len(changed) > _N_NAMED else ""
    return (
        f"{len(changed)} of {len(before.rows)} rows that were read again are of other files than "
        f"before: {', '.join(told)}{more}"
    )


def _digests(store: Store, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Digests of some rows, in order; zeros where no digest is stored or can be read."""
    digests = np.zeros((len(rows), DIGEST_BYTES), np.uint8)
    if "clip_digest" not in store.layout.optional:
        return digests
    array, shard_of_row = store.array("clip_digest"), rows // store.layout.rows_per_shard

    def read(shard: int) -> None:
        here = slice(*np.searchsorted(shard_of_row, (shard, shard + 1)))
        of_shard = store.layout.shard_rows(shard)
        try:
            values = array[of_shard.start : of_shard.stop]
        except DAMAGE:
            return
        places = rows[here] - of_shard.start
        inside = places < len(values)
        digests[here][inside] = values[places[inside]]

    with ThreadPoolExecutor(_N_READERS) as pool:
        list(pool.map(read, np.unique(shard_of_row).tolist()))
    return digests
