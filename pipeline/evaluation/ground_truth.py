"""From annotation files to ground truth on the grid of a run's model, row for row."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.decode import read_frames
from pipeline.clips.fetch import LastRead, check_same_file, fetch_clip
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.recording import DecoderName
from pipeline.clips.views import View
from pipeline.dataset.manifest import Manifest
from pipeline.errors import StoreError
from pipeline.evaluation.annotations import Annotations, Marked, SeenClip
from pipeline.status import DecodeError, Status
from pipeline.store.ground_truth import (
    Truth,
    check_replaceable,
    share_of_patches,
    write_ground_truth,
)
from pipeline.store.opening import Store
from pipeline.store.rows import read_rows


@dataclass
class Found:
    """What annotations there were for a run."""

    n_clips: int = 0
    """Clips that are ok in the run."""
    n_annotated: int = 0
    example: str = ""
    """The first clip that was read and has no annotation."""
    n_known: dict[str, int] = field(default_factory=dict)
    """Time steps whose truth is known, by kind."""
    unread: list[str] = field(default_factory=list)
    """Why clips could not be read again, one line each."""


def build_ground_truth(
    store: Store,
    manifest: Manifest,
    annotations: Annotations,
    url: str,
    on_clip: Callable[[], None] = lambda: None,
) -> Found:
    """Write the ground truth of a run's ok clips.

    A clip's file is decoded again, in the frames that the model saw: annotations count in seconds
    and in pixels of the file. A clip without annotation isn't known; neither is one that can't be
    read any more, which is counted with its reason. If no clip has annotations, nothing is written,
    and what was written before stays.

    Raises
    ------
    ConfigError
        If annotations can't be read.
    StoreError
        If the manifest is of other clips, or the truth can't be written, as something else is at
        the URL.
    """
    check_replaceable(url)
    layout, record = store.layout, store.record
    decoder = record.identity.decoder
    grid = (layout.n_times, layout.height, layout.width)
    video_ids = read_rows(store, "video_id", slice(None))
    if record.views.n_rows(manifest.n_rows) < layout.n_rows:
        raise StoreError(
            f"manifest: {manifest.url} has {manifest.n_rows} rows, the run at {store.url} has "
            f"{layout.n_rows}: it is of other clips"
        )
    found = Found(n_known=dict.fromkeys(annotations.all_kinds, 0))
    last_read: LastRead = {}

    def blocks() -> Iterator[tuple[NDArray[np.int64], str, Truth]]:
        for shard in range(layout.n_shards):
            rows = np.asarray(layout.shard_rows(shard))
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            ok = store.array("status")[part] == Status.OK
            frame_index = read_rows(store, "frame_index", part)
            has_digests = "clip_digest" in layout.optional
            digests = read_rows(store, "clip_digest", part) if has_digests else None
            starts = read_rows(store, "start_time", part)
            table = manifest.take(record.views.video(rows))
            expected = table["video_id"].to_pylist()
            marks: dict[str, list[tuple[int, Truth]]] = {kind: [] for kind in found.n_known}
            for place in np.flatnonzero(ok).tolist():
                row = int(rows[place])
                if str(video_ids[row]) != expected[place]:
                    raise StoreError(
                        f"manifest: row {row} of {manifest.url} is {expected[place]!r}, that of "
                        f"the run is {str(video_ids[row])!r}: it is of other clips"
                    )
                found.n_clips += 1
                view = record.views.of(row)
                digest = None if digests is None else digests[place].tobytes()
                entry = table.slice(place, 1).to_pylist()[0] | {"start_time": starts[place]}
                try:
                    clip = seen_clip(
                        manifest, entry, frame_index[place], view, decoder, digest, last_read
                    )
                except DecodeError as error:
                    found.unread.append(f"{expected[place]}: {error.message}")
                    on_clip()
                    continue
                marked = annotations.mark(clip)
                found.n_annotated += bool(marked)
                if not marked:
                    found.example = found.example or clip.video_id
                for kind, value in marked.items():
                    truth = on_grid(value, view.preprocessing, grid)
                    marks[kind].append((row, truth))
                    found.n_known[kind] += int(truth.known.sum())
                on_clip()
            for kind, truths in marks.items():
                if truths:
                    yield (
                        np.array([row for row, _ in truths]),
                        kind,
                        Truth(
                            np.stack([truth.covered for _, truth in truths]),
                            np.stack([truth.known for _, truth in truths]),
                        ),
                    )

    truths = blocks()
    first = next(truths, None)
    if first is None:
        return found
    write_ground_truth(
        url,
        annotations.all_kinds,
        video_ids,
        grid,
        chain([first], truths),
        {
            "run": store.url,
            "annotations": annotations.url,
            "identity": record.identity.model_dump(mode="json"),
        },
    )
    return found


def seen_clip(
    manifest: Manifest,
    entry: Mapping[str, Any],
    frame_index: NDArray[np.integer],
    view: View,
    decoder: DecoderName,
    digest: bytes | None,
    last_read: LastRead,
) -> SeenClip:
    """Decode a clip again for its size and the times of the frames that the model saw.

    Parameters
    ----------
    entry
        The clip's row of the manifest, with its ``start_time`` as a number.
    digest
        Of the file's bytes, as the run stored it; None where it stored none.
    last_read
        As `pipeline.clips.fetch.fetch_clip` has it.

    Raises
    ------
    DecodeError
        If it can't be read, is another file by now, or gives other frames than the run has.
    """
    start, end = entry["start_time"], entry["end_time"]
    data = fetch_clip(manifest.root, entry["path"], last_read=last_read)
    try:
        check_same_file(data, digest)
    except ValueError as error:
        raise DecodeError(Status.UNREADABLE, str(error)) from error
    segment = (start, end) if manifest.segments else (None, None)
    frames = read_frames(data, view.sampling, None, *segment, decoder=decoder)
    if not np.array_equal(frames.frame_index, frame_index):
        raise DecodeError(
            Status.UNREADABLE,
            f"frames {frames.frame_index.tolist()} are taken now, the run has "
            f"{frame_index.tolist()}: the file has changed",
        )
    height, width = frames.frames.shape[1:3]
    time_s = frames.frame_time
    if np.isnan(time_s).any():
        time_s = frame_index / frames.fps
    # The file of a segment is the source video itself.
    start_s = 0.0 if manifest.segments else float(start)
    return SeenClip(entry["video_id"], frame_index, time_s, start_s, height, width)


def on_grid(marked: Marked, preprocessing: Preprocessing, grid: tuple[int, int, int]) -> Truth:
    """Bring masks through the frames' geometry onto the model's patches: one row.

    A time step of several frames is known if one of them is, and is the mean over those.

    Returns
    -------
    Truth of (time, y, x) and (time,)
    """
    n_times = grid[0]
    known = marked.known.reshape(n_times, -1)
    pixels = preprocessing.resize_and_crop_mask(marked.masks & marked.known[:, None, None])
    covered = share_of_patches(pixels, grid)
    share_known = known.mean(axis=1, dtype=np.float32)
    scale = np.divide(1, share_known, out=np.zeros_like(share_known), where=share_known > 0)
    return Truth(covered * scale[:, None, None], np.asarray(known.any(axis=1)))
