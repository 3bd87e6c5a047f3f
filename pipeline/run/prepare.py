"""Makes the store what a plan needs, once everything was checked."""

from pipeline.run.plan import Plan
from pipeline.status import Status
from pipeline.store.append import append_rows, check_appended, finish_append
from pipeline.store.create import create_store
from pipeline.store.discard import discard_run
from pipeline.store.opening import Found, check_same_run, check_writable, find_store
from pipeline.store.pending import reset_rows
from pipeline.store.removed import keep_out


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
    if plan.call.overwrite:
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
        if plan.call.append:
            store = append_rows(store, plan.record)
        finish_append(store)
        retried = reset_rows(store, plan.call.statuses_to_retry)
    else:
        store, retried = create_store(plan.store_url, plan.record), {}
    # Before anything is computed: what was taken out doesn't come back, whatever this call does.
    keep_out(plan.config.out, store, plan.manifest)
    return retried
