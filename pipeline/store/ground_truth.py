"""Ground truth: which part of each patch matters, in one form that every metric reads.

Two kinds of store are opened alike:

- of `jobs.ground_truth`, on the grid of one run's model, row for row: ``covered`` (kind, clip,
  time, y, x) float16, the share of each patch; ``known`` (kind, clip, time) bool, whether the truth
  of a time step is known; ``kind`` (kind,), as ``person``, ``hand``, ``object``, ``action time``;
  and ``video_id`` (clip,).
- of `jobs.synthesize`, whatever the model: masks of pixels in every frame, and windows in time,
  from which patches are computed.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.views import Views
from pipeline.errors import StoreError, reason_of
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.objects import CHECKED, OBJECTS, counted_objects, lost_objects
from pipeline.store.opening import DAMAGE, STORAGE_ERRORS, Absent, find_store
from pipeline.store.record import RunIdentity

SCHEMA = {"name": "staa-ground-truth", "version": 1}
ACTOR, RIVAL = "actor", "rival"
"""Kinds of a synthetic dataset; the second has one in clips of two actors."""
_ROWS_PER_CHUNK = 256
_UNFINISHED = "unfinished"
"""Attribute of a group that is still written, or whose writing was cut off."""
_SEEN_BY = ("sampling", "preprocessing", "views", "segments")
"""What of a run decides which parts of a file its rows are."""


@dataclass(frozen=True)
class Truth:
    """Ground truth of some rows of a run."""

    covered: NDArray[np.float32]
    """(rows, time, y, x): share of each patch that is covered, 0 to 1; 0 where it isn't known."""
    known: NDArray[np.bool_]
    """(rows, time)"""

    @property
    def patches_known(self) -> NDArray[np.bool_]:
        """`known` for each patch: (rows, time, y, x)."""
        return np.broadcast_to(self.known[:, :, None, None], self.covered.shape)


@dataclass(frozen=True)
class GridTruth:
    """What `jobs.ground_truth` wrote for a run."""

    url: str
    kinds: tuple[str, ...]
    covered: Any
    """Zarr array (kind, clip, time, y, x)."""
    known: Any
    """Zarr array (kind, clip, time)."""
    video_ids: NDArray[Any]
    made_for: RunIdentity | None = None
    """The run for which it was made; None if it isn't told."""

    def check_made_for(self, identity: RunIdentity) -> None:
        """Refuse a run that has seen other frames, or other parts of them, in the same rows.

        Raises
        ------
        StoreError
            Names the first difference.
        """
        if self.made_for is None:
            return
        for key, there, here in _of_places(self.made_for).differences(_of_places(identity)):
            if key.split(".")[0] in _SEEN_BY or (key == "manifest" and identity.segments):
                raise StoreError(
                    f"the ground truth at {self.url} was made for another run: {key} is {there!r} "
                    f"there and {here!r} here; jobs.ground_truth makes one for this run"
                )

    def known_rows(self, n_rows: int, kind: str | None = None) -> NDArray[np.bool_]:
        """Tell which of a run's rows have a truth in some time step: (rows,)."""
        index = _index_of_kind(self.url, self.kinds, kind)
        of_times = np.asarray(_read(self.url, self.known, index), np.bool_)
        known: NDArray[np.bool_] = np.asarray(of_times.any(axis=1))
        result = np.zeros(n_rows, np.bool_)
        result[: len(known)] = known[:n_rows]
        return result

    def of_rows(
        self,
        rows: NDArray[np.integer],
        video_ids: NDArray[Any],
        frame_index: NDArray[np.integer],
        views: Views,
        grid: tuple[int, int, int],
        kind: str | None = None,
    ) -> Truth:
        """Read the truth of some rows; see `MaskTruth.of_rows`.

        Raises
        ------
        StoreError
            If it is of another grid or other clips, has no such kind, or is damaged.
        """
        index = _index_of_kind(self.url, self.kinds, kind)
        n_rows, *found = self.covered.shape[1:]
        if tuple(found) != grid:
            raise StoreError(
                f"the ground truth at {self.url} is on a grid of {'x'.join(map(str, found))}, the "
                f"run has {'x'.join(map(str, grid))}: it was made for another run"
            )
        for row, video_id in zip(rows.tolist(), video_ids, strict=True):
            if row >= n_rows or str(self.video_ids[row]) != str(video_id):
                there = repr(str(self.video_ids[row])) if row < n_rows else "no row"
                raise StoreError(
                    f"the ground truth at {self.url} has {there} where the run has "
                    f"{str(video_id)!r}, in row {row}: it was made for another run"
                )
        start, stop = int(rows.min()), int(rows.max()) + 1
        covered, known = (
            _read(self.url, array, (index, slice(start, stop)))[rows - start]
            for array in (self.covered, self.known)
        )
        return Truth(covered.astype(np.float32), known)


@dataclass(frozen=True)
class MaskTruth:
    """Masks and windows of a synthetic dataset's clips, by ``video_id``."""

    masks: Mapping[str, Any]
    """Zarr array (clip, frame, y, x) bool of each kind."""
    index_of: dict[str, int]
    windows: NDArray[np.float64]
    """(clip, 2): start and end of the time in which the class shows, seconds from the start."""
    fps: NDArray[np.float64]
    n_frames: NDArray[np.int32]
    url: str = ""

    def check_made_for(self, identity: RunIdentity) -> None:
        """Nothing is refused: it is computed for each run from what that has seen."""

    def known_rows(self, n_rows: int, kind: str | None = None) -> NDArray[np.bool_]:
        """Every row has a truth in all time steps: (rows,)."""
        return np.ones(n_rows, np.bool_)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What has masks."""
        return tuple(self.masks)

    def of_rows(
        self,
        rows: NDArray[np.integer],
        video_ids: NDArray[Any],
        frame_index: NDArray[np.integer],
        views: Views,
        grid: tuple[int, int, int],
        kind: str | None = None,
    ) -> Truth:
        """Compute the truth of some rows of a run.

        Parameters
        ----------
        rows
            (rows,): numbers of the run's rows.
        video_ids
            (rows,)
        frame_index
            (rows, frames): the frames that the model saw.
        views
            The run's.
        grid
            Times, rows and columns of the model's patches.
        kind
            One of `kinds`; by default the first.

        Raises
        ------
        StoreError
            If a clip isn't there, or has no such frames, or there is no such kind, or masks are
            damaged.
        """
        covered = [
            self.patches(str(video_id), frames, views.of(int(row)).preprocessing, grid, kind)
            for row, video_id, frames in zip(rows, video_ids, frame_index, strict=True)
        ]
        return Truth(np.stack(covered), np.ones((len(covered), grid[0]), np.bool_))

    def patches(
        self,
        video_id: str,
        frame_index: NDArray[np.integer],
        preprocessing: Preprocessing,
        grid: tuple[int, int, int],
        kind: str | None = None,
    ) -> NDArray[np.float32]:
        """Share of each patch that the actor covers while its class shows.

        Parameters
        ----------
        frame_index
            (frames,): the frames that the model saw; a multiple of the grid's times.
        grid
            Times, rows and columns of the model's patches.

        Returns
        -------
        (times, rows, columns) float32, 0 to 1; 0 in frames outside the window

        Raises
        ------
        StoreError
            If there is no such clip, it has no such frames, or its masks are damaged.
        """
        if video_id not in self.index_of:
            raise StoreError(f"clip {video_id!r} of the run has no ground truth")
        clip = self.index_of[video_id]
        n_frames = int(self.n_frames[clip])
        if frame_index.min() < 0 or frame_index.max() >= n_frames:
            raise StoreError(
                f"clip {video_id!r} of the run has frames {frame_index.min()} to "
                f"{frame_index.max()}, its ground truth has {n_frames}: it is of other clips"
            )
        of_kind = self.masks[self.kinds[_index_of_kind(self.url, self.kinds, kind)]]
        of_frames = _read(self.url, of_kind, clip)
        pixels = preprocessing.resize_and_crop_mask(of_frames[frame_index])
        time_s = frame_index / self.fps[clip]
        start_s, end_s = self.windows[clip]
        pixels[(time_s < start_s) | (time_s > end_s)] = 0
        return share_of_patches(pixels, grid)


GroundTruth = GridTruth | MaskTruth


def share_of_patches(
    pixels: NDArray[np.float32], grid: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Mean of pixels (frames, height, width) over each patch and time step: (time, y, x)."""
    n_times, rows, columns = grid
    n_seen, height, width = pixels.shape
    blocks = pixels.reshape(
        n_times, n_seen // n_times, rows, height // rows, columns, width // columns
    )
    result: NDArray[np.float32] = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    return result


def open_ground_truth(url: str, *, count: bool = True) -> GroundTruth:
    """Open the ``ground_truth.zarr`` of `jobs.ground_truth`, or of a synthetic dataset.

    Parameters
    ----------
    count
        Look whether objects are lost; not where another process has just done so, since that lists
        all of them.

    Raises
    ------
    StoreError
        If there is none at the URL, one whose writing was cut off, or one that is damaged.
    """
    try:
        group: Any = zarr.open_group(zarr_location(url), mode="r")
        if count and (lost := lost_objects(group)):
            raise StoreError(f"the ground truth at {url} has lost objects: {lost}; make it again")
        if "covered" in group:
            attributes = group.attrs.asdict()
            if _UNFINISHED in attributes or "schema" not in attributes:
                raise StoreError(
                    f"the ground truth at {url} isn't finished: jobs.ground_truth makes it again"
                )
            return GridTruth(
                url=url,
                kinds=tuple(str(kind) for kind in group["kind"][:]),
                covered=group["covered"],
                known=group["known"],
                video_ids=group["video_id"][:],
                made_for=_identity_of(attributes.get("identity"), url),
            )
        masks = {ACTOR: group["mask"]}
        if "rival_mask" in group:
            masks[RIVAL] = group["rival_mask"]
        return MaskTruth(
            masks=masks,
            index_of={str(video_id): clip for clip, video_id in enumerate(group["video_id"][:])},
            windows=np.asarray(group["window"][:]),
            fps=np.asarray(group["fps"][:]),
            n_frames=np.asarray(group["n_frames"][:]),
            url=url,
        )
    except KeyError as error:
        raise StoreError(f"no ground truth at {url}: it has no array {error}") from error
    except DAMAGE as error:
        raise StoreError(f"no ground truth at {url}: {reason_of(error)}") from error


def _read(url: str, array: Any, place: Any) -> NDArray[Any]:
    """Read a part of an array of a truth."""
    try:
        return np.asarray(array[place])
    except DAMAGE as error:
        raise StoreError(
            f"the ground truth at {url} is damaged, make it again: {array.name.strip('/')} can't "
            f"be read: {reason_of(error)}"
        ) from error


def write_ground_truth(
    url: str,
    kinds: tuple[str, ...],
    video_ids: NDArray[Any],
    grid: tuple[int, int, int],
    blocks: Iterable[tuple[NDArray[np.integer], str, Truth]],
    attributes: Mapping[str, Any],
) -> None:
    """Write ground truth on a run's grid.

    Parameters
    ----------
    video_ids
        (clip,): of every row of the run.
    blocks
        Rows, kind and truth of them; what isn't given is not known.
    attributes
        Where it comes from.

    Raises
    ------
    StoreError
        If it can't be written, or something else is at the URL.
    """
    check_replaceable(url)
    about = {**attributes, "schema": SCHEMA}
    with _writing(url):
        group: Any = zarr.create_group(
            zarr_location(url), overwrite=True, attributes={**about, _UNFINISHED: True}
        )
        n_rows = len(video_ids)
        chunk = min(_ROWS_PER_CHUNK, max(n_rows, 1))
        dims = ("kind", "clip", "time", "y", "x")
        arrays = {
            "covered": ((len(kinds), n_rows, *grid), "float16", 0.0),
            "known": ((len(kinds), n_rows, grid[0]), "bool", False),
        }
        for name, (shape, dtype, fill_value) in arrays.items():
            group.create_array(
                name,
                shape=shape,
                dtype=dtype,
                chunks=(1, chunk, *shape[2:]),
                fill_value=fill_value,
                compressors=CHECKED,
                dimension_names=dims[: len(shape)],
            )
        for name, values in (("kind", list(kinds)), ("video_id", [str(v) for v in video_ids])):
            array = group.create_array(
                name,
                shape=(len(values),),
                dtype="str",
                compressors=CHECKED,
                dimension_names=("kind" if name == "kind" else "clip",),
            )
            array[:] = np.array(values, object)
    for rows, kind, truth in blocks:
        index = kinds.index(kind)
        with _writing(url):
            group["covered"].oindex[index, rows] = truth.covered.astype(np.float16)
            group["known"].oindex[index, rows] = truth.known
    with _writing(url):
        group.attrs.put({**about, OBJECTS: counted_objects(group)})


def check_replaceable(url: str) -> None:
    """Refuse to write ground truth over anything but ground truth, which would be deleted.

    Raises
    ------
    StoreError
        Names the URL.
    """
    if isinstance(find_store(url), Absent):
        return
    try:
        schema = zarr.open_group(zarr_location(url), mode="r").attrs.get("schema")
    # Zarr may raise anything for what is no group.
    except Exception:
        schema = None
    if not isinstance(schema, dict) or schema.get("name") != SCHEMA["name"]:
        raise StoreError(
            f"can't write ground truth to {url}: something else is there; choose another place, or "
            "delete it"
        )


@contextmanager
def _writing(url: str) -> Iterator[None]:
    try:
        yield
    except STORAGE_ERRORS as error:
        raise StoreError(f"can't write ground truth to {url}: {error}") from error


def _of_places(identity: RunIdentity) -> RunIdentity:
    """Leave out how the values of pixels are scaled, which moves none of them."""
    return identity.model_copy(update={"preprocessing": identity.preprocessing.geometry})


def _identity_of(recorded: Any, url: str) -> RunIdentity | None:
    """Identity that was recorded; None if there is none, as for clips that are their own truth."""
    if recorded is None:
        return None
    try:
        return RunIdentity.from_recorded(recorded)
    except (ValidationError, AttributeError, TypeError, ValueError) as error:
        raise StoreError(
            f"the ground truth at {url} was made for a run that this release can't read: make it "
            "again by jobs.ground_truth"
        ) from error


def _index_of_kind(url: str, kinds: tuple[str, ...], kind: str | None) -> int:
    if kind is None:
        return 0
    if kind not in kinds:
        raise StoreError(
            f"the ground truth at {url} has no {kind!r}, expected one of {', '.join(kinds)}"
        )
    return kinds.index(kind)
