"""A run that takes in the rows that were added to the end of its manifest."""

from collections.abc import Mapping
from typing import Any

from zarr.core.group import Group

from pipeline.dataset.manifest import Manifest
from pipeline.errors import RunMismatchError, StoreError, reason_of
from pipeline.store.record import check_identity, store_layout
from pipeline.store.schema import StoreLayout


def check_appended(group: Group, manifest: Manifest, identity: Mapping[str, Any]) -> None:
    """Refuse a manifest that doesn't begin with the rows of the run, or another run.

    Raises
    ------
    RunMismatchError
        Names what differs.
    """
    layout = store_layout(group)
    stored: Any = group.attrs["identity"]
    check_identity(group, {**identity, "manifest": stored["manifest"]})
    n_rows = layout.n_rows // layout.n_views
    if manifest.n_rows < n_rows or manifest.digest_of_first(n_rows) != stored["manifest"]:
        raise RunMismatchError(
            f"append: {manifest.url} has {manifest.n_rows} rows, and doesn't begin with the "
            f"{n_rows} rows that the run at {group.store} was made of"
        )


def append_rows(group: Group, layout: StoreLayout, attributes: Mapping[str, Any]) -> None:
    """Enlarge a store to ``layout``, which has more rows: the new ones are pending.

    Objects that are there stay as they are. The attributes come first, so that an enlarging that
    was cut off is seen as one, and finished by `finish_append`.

    Parameters
    ----------
    attributes
        What changes with the manifest: ``identity`` and ``config``.

    Raises
    ------
    StoreError
        If the storage refuses.
    """
    try:
        group.update_attributes({"layout": vars(layout), **attributes})
    except (OSError, ValueError) as error:
        raise StoreError(f"out: can't write {group.store}: {reason_of(error)}") from error
    finish_append(group)


def finish_append(group: Group) -> None:
    """Bring every array to the store's rows; ``status`` is the last, and the first to be looked at.

    Raises
    ------
    StoreError
        If the storage refuses.
    """
    layout = store_layout(group)
    names = [*(layout.arrays().keys() - {"status"}), "status"]
    try:
        status: Any = group["status"]
        if status.shape[0] == layout.n_rows:
            return
        for name in names:
            array: Any = group[name]
            array.resize((layout.n_rows, *array.shape[1:]))
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"out: can't enlarge {group.store}: {reason_of(error)}") from error
