"""Brings in the attributions of another tool: writes them as a store, makes a run of a store."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline import __version__
from pipeline.attribution.method import Method
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import ViewsConfig
from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.conforming import open_conforming, problems_of
from pipeline.store.conventions import ARRAYS, Attributions
from pipeline.store.create import create_store
from pipeline.store.discard import discard_run
from pipeline.store.record import ModelFacts, ModelIdentity, RunIdentity, RunRecord, status_codes
from pipeline.store.run_folder import in_run, store_url
from pipeline.store.schema import StoreLayout
from pipeline.store.shards import write_shard
from pipeline.text import without_credentials

_ROWS_PER_SHARD = 256
_SHARD_BYTES = 64_000_000
"""Size of a shard's maps at the most: those of other tools may have a value for each pixel."""
_REQUIRED = ("video_id", "prediction", "probability")


def write_attributions(
    url: str, joint: NDArray[np.floating], about: Attributions, **columns: NDArray[Any]
) -> str:
    """Write maps of another tool as a store that keeps the convention "attributions".

    Parameters
    ----------
    url
        The store, any fsspec URL.
    joint
        (clip, time, y, x), A in any unit: what isn't relevant is 0, and nothing is negative. A time
        step without anything gets T = 0.
    about
        What the store says of itself.
    columns
        Other arrays of the convention by name, each (clip, ...): ``video_id``, ``prediction`` and
        ``probability`` must be there. ``status`` is ok by default.

    Returns
    -------
    ``url``

    Raises
    ------
    StoreError
        When a map is negative, not finite or empty, an array isn't of the convention, is missing or
        has another number of clips, or something is there already.
    """
    values = np.asarray(joint, np.float64)
    total = values.sum(axis=(1, 2, 3)) if values.ndim == 4 else np.zeros(1)
    if values.ndim != 4 or not (np.isfinite(values).all() and (values >= 0).all() and total.all()):
        raise StoreError(
            f"joint of shape {values.shape}: expected (clip, time, y, x), each clip with finite "
            "values, none of them negative and not all of them 0"
        )
    if unknown := [name for name in columns if name not in ARRAYS]:
        raise StoreError(f"{unknown[0]} is no array of the convention: {', '.join(ARRAYS)}")
    if lacking := [name for name in _REQUIRED if name not in columns]:
        raise StoreError(f"{lacking[0]} is missing: expected {', '.join(_REQUIRED)}")
    if other := [name for name, column in columns.items() if len(column) != len(values)]:
        raise StoreError(
            f"{other[0]} has {len(columns[other[0]])} clips, expected {len(values)} as in joint"
        )
    when = values.sum(axis=(2, 3))
    uniform = np.full(values.shape[2:], 1 / values[0, 0].size)
    with np.errstate(invalid="ignore"):
        where = np.where(when[..., None, None] > 0, values / when[..., None, None], uniform)
    arrays = {
        "status": np.full(len(values), Status.OK, np.uint8),
        "spatial": where.astype(np.float32),
        "temporal": (when / total[:, None]).astype(np.float32),
        **{name: np.asarray(column) for name, column in columns.items()},
    }
    try:
        group: Any = zarr.create_group(zarr_location(url), attributes=about.to_attributes())
    except zarr.errors.ContainsGroupError as error:
        raise StoreError(f"{url} is there already") from error
    for name, array in arrays.items():
        is_text = array.dtype.kind in "OTU"
        group.create_array(
            name,
            shape=array.shape,
            chunks=(min(_ROWS_PER_SHARD, len(array)), *array.shape[1:]),
            dtype="str" if is_text else array.dtype,
            dimension_names=ARRAYS[name].dims,
        )[:] = array.astype(object) if is_text else array
    return url


def take_in(
    url: str, run_url: str, *, on_rows: Callable[[int, int], None] = lambda done, total: None
) -> str:
    """Copy a store that keeps the convention "attributions" into a run's folder, as a run.

    All that reads runs works with it: scores, statistics, findings, the page. It can't be gone on
    with, and nothing can be tried on its model, as no model, manifest or clip is known. What the
    store lacks is unknown in the run.

    Parameters
    ----------
    url
        The store, any fsspec URL. Its clips must be done: none may be pending.
    run_url
        Folder of the run, any fsspec URL.
    on_rows
        Is told how many rows were copied, and of how many.

    Returns
    -------
    URL of the run's store

    Raises
    ------
    StoreError
        Names the first thing that breaks the convention, a pending row, or what is at ``run_url``
        already.
    """
    if problems := problems_of(url):
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise StoreError(f"{url}: {problems[0]}{more}")
    group, about = open_conforming(url)
    theirs: dict[str, Any] = {name: group[name] for name in ARRAYS if name in group}
    pending = np.flatnonzero(theirs["status"][:] == Status.PENDING)
    if len(pending):
        raise StoreError(f"{url}: row {pending[0]} is pending: expected a store that is complete")
    layout = _layout(theirs)
    store = create_store(store_url(run_url), _record(layout, theirs, about, url, run_url))
    try:
        for shard in range(layout.n_shards):
            rows = layout.shard_rows(shard)
            block = {name: array[rows.start : rows.stop] for name, array in theirs.items()}
            write_shard(store, _columns(block, layout), np.asarray(rows), is_new=True)
            on_rows(rows.stop, layout.n_rows)
    except BaseException:
        # Half a store would be in the way of the next try, and no other job can go on with it.
        discard_run(run_url)
        raise
    return store.url


def _layout(theirs: dict[str, Any]) -> StoreLayout:
    n_rows, n_times, height, width = theirs["spatial"].shape
    row_bytes = n_times * height * width * 4
    frames = theirs.get("frame_index", theirs.get("frame_time"))
    ranks = theirs.get("top_classes", theirs.get("top_probabilities"))
    return StoreLayout(
        n_rows=n_rows,
        rows_per_shard=max(1, min(_ROWS_PER_SHARD, n_rows, _SHARD_BYTES // row_bytes)),
        n_frames=n_times if frames is None else frames.shape[1],
        n_times=n_times,
        height=height,
        width=width,
        n_ranks=1 if ranks is None else ranks.shape[1],
        optional=("frame_time",) if "frame_time" in theirs else (),
        checksums=True,
    )


def _columns(block: dict[str, NDArray[Any]], layout: StoreLayout) -> dict[str, NDArray[Any]]:
    """Give rows every array of a run: what they lack is filled, or follows from what they have."""
    n = len(block["status"])
    given = dict(block)
    for name, first, unknown in (
        ("top_classes", "prediction", -1),
        ("top_probabilities", "probability", np.nan),
    ):
        if name not in given:
            given[name] = np.full((n, layout.n_ranks), unknown, layout.arrays()[name].dtype)
            given[name][:, 0] = given[first]
    if "label" in given and "label_probability" not in given:
        right = given["label"] == given["prediction"]
        given["label_probability"] = np.where(right, given["probability"], np.nan)
    columns: dict[str, NDArray[Any]] = {}
    for name, spec in layout.arrays().items():
        values = given.get(name)
        if values is None:
            columns[name] = spec.filled(n)
        elif spec.dtype == "str":
            columns[name] = values.astype(object)
        else:
            columns[name] = np.broadcast_to(values, (n, *spec.shape)).astype(spec.dtype)
    return columns


def _record(
    layout: StoreLayout, theirs: dict[str, Any], about: Attributions, url: str, run_url: str
) -> RunRecord:
    ids = "\0".join(map(str, theirs["video_id"][:]))
    return RunRecord(
        layout=layout,
        identity=RunIdentity(
            manifest=hashlib.sha256(ids.encode()).hexdigest(),
            # So that runs of two methods over the same videos are told apart.
            model=ModelIdentity(weights="", config={"attributions": about.model_dump(mode="json")}),
            decoder="pyav",
            sampling=Sampling("uniform", layout.n_frames),
            preprocessing=Preprocessing(),
            views=ViewsConfig(),
            method=Method(name="staa-paper"),
            precision="float32",
            compile_model=False,
            batch_size=1,
            rows_per_shard=layout.rows_per_shard,
            attribution_version=0,
        ),
        # No manifest is known: whoever wants one looks here, and says that there is none.
        config={
            "manifest": in_run(run_url, "manifest.parquet"),
            "out": run_url,
            "from": without_credentials(url),
        },
        class_names=about.class_names,
        model=ModelFacts(name="of another tool", revision=None, weights_digest="", family=""),
        layers=(0,),
        status_codes=status_codes(),
        packages={"staa": __version__},
        taken_in=about,
    )
