"""Makes the store what a plan needs, once everything was checked."""

from pipeline.run.plan import Plan
from pipeline.status import Status
from pipeline.store.append import append_rows, finish_append
from pipeline.store.create import create_store
from pipeline.store.discard import discard_run
from pipeline.store.opening import Found, find_store
from pipeline.store.pending import reset_rows


def prepare(plan: Plan) -> dict[Status, int]:
    """Create the store of a run or find it, and do to it what this call is to do.

    Returns
    -------
    Rows that had failed and are pending again, by the status that they had

    Raises
    ------
    StoreError
        If the storage refuses.
    """
    if plan.call.overwrite:
        discard_run(plan.config.out)
    target = find_store(plan.store_url, mode="r+")
    if not isinstance(target, Found):
        create_store(plan.store_url, plan.record)
        return {}
    store = target.store
    if plan.call.append:
        store = append_rows(store, plan.record)
    finish_append(store)
    return reset_rows(store, plan.call.statuses_to_retry)
