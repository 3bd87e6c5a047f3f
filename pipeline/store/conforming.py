"""Whether a store keeps the convention "attributions", and what in it breaks it."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import ValidationError
from zarr.core.group import Group
from zarr.core.metadata import ArrayV3Metadata

from pipeline.errors import StorageError, StoreError, reason_of
from pipeline.status import Status
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.conventions import ARRAYS, CONVENTION_KEYS, NAME, UUID, VERSION, Attributions

_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 64_000_000
"""Maps of other tools may have a value for each pixel."""
_TOLERANCE = {2: 4e-3, 4: 1e-4, 8: 1e-4}
"""How far from 1 a sum may be, by the bytes of the dtype: half precision rounds each patch."""
_HIGHEST = 1.0001
"""A probability that was rounded up is let pass."""
_KIND_NAMES = {"u": "unsigned integers", "TU": "texts", "f": "floats", "i": "signed integers"}


def open_conforming(url: str) -> tuple[Group, Attributions]:
    """Open a store that keeps the convention; only its metadata are read.

    Raises
    ------
    StoreError
        Names the first thing that breaks it.
    """
    group = _open(url)
    if broken := next(_broken_metadata(group), None):
        raise StoreError(f"{url}: {broken}")
    return group, Attributions.model_validate(group.attrs.asdict()[NAME])


def problems_of(
    url: str,
    *,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
    rows_at_once: int = _ROWS_AT_ONCE,
) -> list[str]:
    """Read a store and tell what in it breaks the convention, a line each; nothing if it keeps it.

    Parameters
    ----------
    on_rows
        Is told how many rows were read, and of how many.
    rows_at_once
        Rows that are read together at most.

    Raises
    ------
    StoreError
        If there is no Zarr group.
    """
    group = _open(url)
    if broken := list(_broken_metadata(group)):
        return broken
    arrays: dict[str, Any] = {name: group[name] for name in ARRAYS if name in group}
    n_rows = arrays["status"].shape[0]
    n_classes = len(Attributions.model_validate(group.attrs.asdict()[NAME]).class_names)
    seen: dict[str, str] = {}
    row_bytes = max(1, math.prod(arrays["spatial"].shape[1:]) * arrays["spatial"].dtype.itemsize)
    at_once = max(1, min(rows_at_once, _BYTES_AT_ONCE // row_bytes))
    for start in range(0, n_rows, at_once):
        stop = min(start + at_once, n_rows)
        try:
            block = {name: array[start:stop] for name, array in arrays.items()}
        except StorageError:
            raise
        # Of an object that is damaged, codecs raise whatever that comes to.
        except Exception as error:
            return [*seen.values(), f"rows {start} to {stop - 1} can't be read: {reason_of(error)}"]
        for what, row, problem in broken_values(block, n_classes):
            seen.setdefault(what, f"row {start + row}: {problem}")
        on_rows(stop, n_rows)
    return list(seen.values())


def broken_values(
    block: Mapping[str, NDArray[Any]], n_classes: int
) -> Iterator[tuple[str, int, str]]:
    """Tell which values of some rows break the convention.

    Parameters
    ----------
    block
        Arrays of the convention by name, each (rows, ...).

    Yields
    ------
    Kind of problem, the first row that has it, and what it is
    """
    status = block["status"]
    known = [int(code) for code in Status]
    if (row := _first(~np.isin(status, known))) is not None:
        codes = f"expected one of the codes {known[0]} to {known[-1]}"
        yield "status", row, f"status is {status[row]}, {codes}"
    ok = status == Status.OK
    yield from _broken_shares("spatial", block["spatial"], ok, axes=(2, 3), over="(y, x)")
    yield from _broken_shares("temporal", block["temporal"], ok, axes=(1,), over="time")
    for name, least in (("prediction", 0), ("label", -1), ("top_classes", -1)):
        if name in block:
            codes_of = block[name].reshape(len(ok), -1)
            outside = ((codes_of < least) | (codes_of >= n_classes)).any(axis=1)
            if (row := _first(ok & outside)) is not None:
                yield (
                    name,
                    row,
                    f"{name} is {', '.join(map(str, codes_of[row]))}, expected {least} to "
                    f"{n_classes - 1}: there are {n_classes} class names",
                )
    for name in ("probability", "label_probability", "top_probabilities"):
        if name in block:
            values = block[name].reshape(len(ok), -1)
            # What isn't known of a clip is NaN; its answer always is known.
            outside = (values < 0) | (values > _HIGHEST)
            if name == "probability":
                outside |= np.isnan(values)
            if (row := _first(ok & outside.any(axis=1))) is not None:
                worst = float(values[row][outside[row]][0])
                yield name, row, f"{name} is {worst:.4g}, expected 0 to 1"


def _broken_shares(
    name: str, values: NDArray[Any], ok: NDArray[np.bool_], *, axes: tuple[int, ...], over: str
) -> Iterator[tuple[str, int, str]]:
    per_row = tuple(range(1, values.ndim))
    finite = np.isfinite(values).all(axis=per_row)
    if (row := _first(ok & ~finite)) is not None:
        yield f"{name} finite", row, f"{name} has NaN or infinity, and its status is ok"
    negative = finite & (values < 0).any(axis=per_row)
    if (row := _first(ok & negative)) is not None:
        least = float(values[row].min())
        yield f"{name} negative", row, f"{name} has the value {least:.3g}, expected 0 or more"
    sums = values.sum(axis=axes, dtype=np.float64).reshape(len(values), -1)
    farthest = sums[np.arange(len(sums)), np.abs(sums - 1).argmax(axis=1)]
    off = np.abs(farthest - 1) > _TOLERANCE[values.dtype.itemsize]
    if (row := _first(ok & finite & ~negative & off)) is not None:
        yield f"{name} sum", row, f"{name} sums to {farthest[row]:.4g} over {over}, expected 1"


def _first(broken: NDArray[np.bool_]) -> int | None:
    return int(broken.argmax()) if broken.any() else None


def _open(url: str) -> Group:
    try:
        return zarr.open_group(zarr_location(url), mode="r", use_consolidated=False)
    except StorageError:
        raise
    # Of a file that says nonsense, zarr raises whatever that comes to.
    except Exception as error:
        raise StoreError(f"{url} is no Zarr group that can be read: {reason_of(error)}") from error


def _broken_metadata(group: Group) -> Iterator[str]:
    """Tell what in the metadata breaks the convention, before any value is read."""
    if group.metadata.zarr_format != 3:
        yield f"its Zarr format is {group.metadata.zarr_format}, expected 3"
        return
    attributes = group.attrs.asdict()
    declared = attributes.get("zarr_conventions")
    entries = [e for e in declared if isinstance(e, dict)] if isinstance(declared, list) else []
    ours = [entry for entry in entries if entry.get("uuid") == UUID]
    if not ours:
        yield (
            f"zarr_conventions doesn't declare the convention {NAME!r}: expected an entry with the "
            f"uuid {UUID}"
        )
        return
    if unknown := sorted(set(ours[0]) - set(CONVENTION_KEYS)):
        yield (
            f"zarr_conventions: its entry has the key {unknown[0]!r}, expected "
            f"{', '.join(CONVENTION_KEYS)}"
        )
    about = attributes.get(NAME)
    version = about.get("version", VERSION) if isinstance(about, dict) else VERSION
    if version != VERSION:
        yield f"{NAME}.version is {version!r}: this release reads version {VERSION}"
        return
    try:
        Attributions.model_validate(about)
    except ValidationError as error:
        for problem in error.errors():
            key = ".".join((NAME, *map(str, problem["loc"])))
            given = "" if problem["type"] == "missing" else f", got {problem['input']!r:.60}"
            yield f"{key}: {problem['msg']}{given}"
        return
    yield from _broken_arrays(group)


def _broken_arrays(group: Group) -> Iterator[str]:
    sizes: dict[str, tuple[int, str]] = {}
    for name, expected in ARRAYS.items():
        try:
            array = group.get(name)
        except StorageError:
            raise
        except Exception as error:
            yield f"{name}: its metadata can't be read: {reason_of(error)}"
            continue
        if array is None:
            if expected.required:
                yield f"the array {name!r} is missing: {expected.meaning}"
            continue
        if not isinstance(array, zarr.Array):
            yield f"{name} is a group, expected an array"
            continue
        # A group of Zarr 3 holds no other arrays.
        assert isinstance(array.metadata, ArrayV3Metadata)
        dims = tuple(array.metadata.dimension_names or ())
        if dims != expected.dims:
            yield (
                f"{name} has the dimensions ({', '.join(map(str, dims)) or 'none named'}), "
                f"expected ({', '.join(expected.dims)})"
            )
            continue
        if array.dtype.kind not in expected.kinds:
            yield f"{name} is of dtype {array.dtype}, expected {_KIND_NAMES[expected.kinds]}"
        for dim, size in zip(expected.dims, array.shape, strict=True):
            first, where = sizes.setdefault(dim, (size, name))
            if first != size:
                yield f"{name} has {size} of {dim}, and {where} has {first}: expected one size"
    for name in ("frame_index", "frame_time"):
        frames, times = sizes.get("frame", (0, name))[0], sizes.get("time", (1, name))[0]
        if name in group and times and frames % times:
            yield f"{name} has {frames} frames, expected a multiple of the {times} time steps"
            break
    for dim, (size, where) in sizes.items():
        if not size:
            yield f"{where} has no {dim}: expected 1 or more"
