"""Makes the store what a plan needs, once everything was checked."""

import json
import logging
import os
from collections.abc import Iterable

from pipeline.errors import StoreError, reason_of
from pipeline.run.plan import Plan
from pipeline.status import Status
from pipeline.storage.files import read_bytes, write_bytes
from pipeline.store.append import append_rows, check_appended, finish_append
from pipeline.store.create import create_store
from pipeline.store.discard import discard_run
from pipeline.store.opening import Found, Unreadable, check_same_run, check_writable, find_store
from pipeline.store.pending import reset_rows
from pipeline.store.record import RunRecord
from pipeline.store.removed import keep_out
from pipeline.store.run_folder import CACHES_NAME, in_run

_LOGGER = logging.getLogger(__name__)


def prepare(plan: Plan) -> dict[Status, int]:
    """Create the store of a run or find it, and do to it what this call is to do.

    Returns
    -------
    Rows that had failed and are pending again, by the status that they had

    Raises
    ------
    StoreError
        If the storage refuses, or another run is there by now.
    """
    # Starting over deletes the record, and appending changes it: the frames stay in the caches.
    if plan.call.overwrite:
        target = find_store(plan.store_url, mode="r+")
        if isinstance(target, Found):
            _note_caches(plan, _recorded_caches(target.store.record))
        elif isinstance(target, Unreadable) and _noted_caches(plan.config.out) is None:
            _LOGGER.warning(
                "%s: the record of the run that is deleted can't be read; if it had a cache of "
                "frames, jobs.forget has to be told of it by --frames-cache",
                plan.config.out,
            )
        discard_run(plan.config.out)
    target = find_store(plan.store_url, mode="r+")
    if isinstance(target, Found):
        store = target.store
        # It may have been made since the plan was checked, by whoever held the lease before.
        if plan.call.append:
            check_appended(store, plan.manifest, plan.record.identity)
        else:
            check_same_run(store, plan.record.identity)
        check_writable(store)
        _note_caches(plan, _recorded_caches(store.record))
        if plan.call.append:
            store = append_rows(store, plan.record)
        finish_append(store)
        retried = reset_rows(store, plan.call.statuses_to_retry)
    else:
        store, retried = create_store(plan.store_url, plan.record), {}
        _note_caches(plan)
    # Before anything is computed: what was taken out doesn't come back, whatever this call does.
    keep_out(plan.config.out, store, plan.manifest)
    return retried


def caches_of(run_url: str, record: RunRecord) -> tuple[str, ...]:
    """URLs of the caches of frames that a run has used.

    Those that are noted beside its store are absolute. Of a run that earlier releases have made,
    it is the one in its record, which may be relative to the folder in which it was started.

    Raises
    ------
    StoreError
        If the note can't be read.
    """
    noted = _noted_caches(run_url)
    return _recorded_caches(record) if noted is None else noted


def absolute_url(url: str) -> str:
    """URL of a folder that may be given relative to the one that this process is in."""
    if "://" in url and not url.startswith("file://"):
        return url
    return f"file://{os.path.abspath(os.path.expanduser(url.removeprefix('file://')))}"  # noqa: PTH100, PTH111  of a text as it is


def _recorded_caches(record: RunRecord) -> tuple[str, ...]:
    """Give the cache of a run's record, absolute if it is found from here."""
    url = record.config.get("frames_cache")
    if not url:
        return ()
    absolute = absolute_url(str(url))
    # The path stays a text, as in `absolute_url`.
    is_elsewhere = absolute.startswith("file://") and not os.path.exists(absolute[len("file://") :])  # noqa: PTH110
    return (str(url) if is_elsewhere else absolute,)


def _noted_caches(run_url: str) -> tuple[str, ...] | None:
    """Read which caches are noted; None where no note is."""
    url = in_run(run_url, CACHES_NAME)
    try:
        return tuple(map(str, json.loads(read_bytes(url))["caches"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise StoreError(
            f"{url} says which caches have frames of the run, and can't be read: {reason_of(error)}"
        ) from error


def _note_caches(plan: Plan, recorded: Iterable[str] = ()) -> None:
    """Note the cache that a plan uses, if it does, behind those that were used before.

    Raises
    ------
    StoreError
        If the storage refuses.
    """
    config, noted = plan.config, _noted_caches(plan.config.out)
    is_used = plan.cache is not None or plan.shared
    used = [absolute_url(config.frames_cache)] if config.frames_cache and is_used else []
    caches = tuple(dict.fromkeys([*(recorded if noted is None else noted), *used]))
    # None is noted, too, where the record names one that had no room.
    if caches == noted or not (caches or config.frames_cache):
        return
    url = in_run(config.out, CACHES_NAME)
    try:
        write_bytes(url, json.dumps({"caches": caches}, indent=1).encode())
    except (OSError, ValueError, ImportError) as error:
        raise StoreError(f"out: can't write {url}: {reason_of(error)}") from error
