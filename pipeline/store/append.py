"""A run that takes in the rows that were added to the end of its manifest."""

from pipeline.dataset.manifest import Manifest
from pipeline.errors import RunMismatchError, StoreError, reason_of
from pipeline.store.opening import DAMAGE, STORAGE_ERRORS, Store, check_same_run
from pipeline.store.record import RunIdentity, RunRecord


def check_appended(store: Store, manifest: Manifest, identity: RunIdentity) -> None:
    """Refuse a manifest that doesn't begin with the rows of the run, or another run.

    Raises
    ------
    RunMismatchError
        Names what differs.
    """
    stored = store.record.identity.manifest
    check_same_run(store, identity.model_copy(update={"manifest": stored}))
    n_rows = store.record.views.video(store.layout.n_rows)
    if manifest.n_rows < n_rows or manifest.digest_of_first(n_rows) != stored:
        raise RunMismatchError(
            f"append: {manifest.url} has {manifest.n_rows} rows, and doesn't begin with the "
            f"{n_rows} rows that the run at {store.url} was made of"
        )


def append_rows(store: Store, record: RunRecord) -> Store:
    """Enlarge a store to the layout of ``record``, which has more rows: the new ones are pending.

    Objects that are there stay as they are. The record comes first, so that an enlarging that was
    cut off is seen as one, and finished by `finish_append`.

    Parameters
    ----------
    record
        The store's own, except for what changes with the manifest: sizes, identity and
        configuration.

    Returns
    -------
    The store, with its new record

    Raises
    ------
    StoreError
        If the storage refuses.
    """
    try:
        # All of it at once: a store of schema 1 gets today's record.
        store.group.attrs.put(record.to_attributes())
    except STORAGE_ERRORS as error:
        raise StoreError(f"out: can't write {store.url}: {reason_of(error)}") from error
    enlarged = Store(store.url, store.group, record)
    finish_append(enlarged)
    return enlarged


def finish_append(store: Store) -> None:
    """Bring every array to the store's rows; ``status`` is the last, and the first to be looked at.

    Raises
    ------
    StoreError
        If the storage refuses.
    """
    n_rows = store.layout.n_rows
    try:
        if store.array("status").shape[0] == n_rows:
            return
        for name in (*(store.layout.arrays().keys() - {"status"}), "status"):
            array = store.array(name)
            array.resize((n_rows, *array.shape[1:]))
    except DAMAGE as error:
        raise StoreError(f"out: can't enlarge {store.url}: {reason_of(error)}") from error
