"""List the clips of a dataset in a manifest: ``python -m jobs.manifest --help``."""

import os
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from jobs.cli import run_job, writing
from pipeline.base_config import FrozenConfig

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 40
"""Characters of a path that are shown."""


def _by_column(value: Any) -> Any:
    """Columns by name from ``path=video,label=class``; anything else is left to pydantic."""
    if not isinstance(value, str):
        return value
    columns: dict[str, str] = {}
    for part in value.split(","):
        name, equals, column = part.strip().partition("=")
        if not equals:
            raise ValueError(f"{part[:60]!r}: expected name=column, as in path=video,label=class")
        if name in columns:
            raise ValueError(f"{name[:60]!r} is given twice")
        columns[name] = column
    return columns


def _as_number(value: Any) -> Any:
    """Take a flag, which is text, for a number; anything else is left to pydantic."""
    return int(value) if isinstance(value, str) and value in ("0", "1") else value


class ManifestConfig(FrozenConfig):
    """List the clips of a dataset, in a fixed order, in one Parquet manifest."""

    layout: str
    """folders (one per class), files (a folder or glob, without labels), list (a file of `path
    label` lines), table (any Parquet or CSV table with a column of paths), or a dataset's own form:
    kinetics, ucf101, hmdb51, ssv2, charades, activitynet, ava-kinetics, epic-kitchens."""
    clips: str
    """Folder of the clips, or a glob; any fsspec URL."""
    out: str
    """Parquet file to write; any fsspec URL."""
    annotations: str | None = None
    """Annotation file, list or table, of all layouts but `folders` and `files`."""
    split: str | None = None
    """Take the rows of this split alone, where the annotation file tells splits."""
    labels_from: Annotated[Literal[0, 1] | None, BeforeValidator(_as_number)] = None
    """Number that labels count from, where all are numbers and none is 0."""
    columns: Annotated[dict[str, str], NoDecode, BeforeValidator(_by_column)] = Field(
        default={}, max_length=6
    )
    """A table's columns by the manifest's, as `path=video,label=class`, where they have other names
    than these; with nothing behind `=` the manifest's is left empty."""
    strict: bool = False
    """Exit with 1 where a row's file is missing, a video is passed over for its suffix, a folder
    may not be read, or a header isn't ok."""
    segments: bool = False
    """Have each row be a part of its file, from start_time to end_time, as in untrimmed sets: one
    for each action that charades, activitynet, ava-kinetics or epic-kitchens annotates."""
    check: bool = False
    """Open every file's header as well, and write beside the manifest a table of what each says:
    `header ok`, or the reason."""
    append_to: str | None = None
    """Earlier manifest of the same clips, whose rows come first, as they are; clips that it doesn't
    have follow, for `jobs.attribute --append`. May be the file that is written."""


def manifest(config: ManifestConfig) -> int:
    """Build the manifest, behind the rows of an earlier one if there is one, and write it."""
    import pyarrow as pa

    from pipeline.dataset.layouts import Census, append_clips, moved_clips, read_dataset
    from pipeline.dataset.manifest import read_manifest, write_manifest
    from pipeline.errors import ManifestError
    from pipeline.text import printable

    old = None if config.append_to is None else read_manifest(config.append_to)
    dataset = read_dataset(
        layout=config.layout,
        clips=config.clips,
        annotations=config.annotations,
        split=config.split,
        labels_from=config.labels_from,
        columns=config.columns,
        segments=config.segments,
    )
    pieces = _marked(dataset.pieces) if config.segments else dataset.pieces
    is_new, added, moved = True, "", dict[str, str]()
    if old is not None:
        if old.segments != config.segments:
            raise ManifestError(
                f"segments: {config.segments}, but {old.url} is of rows that are "
                f"{'segments' if old.segments else 'whole files'}"
            )
        present = pa.concat_tables(pieces)
        table = append_clips(old, present)
        moved = moved_clips(old, present)
        n_added = table.num_rows - old.n_rows
        # With nothing to add, a file that a run may be reading is left alone.
        is_new, added = bool(n_added) or config.out != old.url, f", {n_added} of them new"
        pieces = iter([table])
    census = Census(dataset)
    counted = census.counted(pieces)
    if is_new:
        with writing("out", config.out):
            write_manifest(counted, config.out)
    else:
        deque(counted, maxlen=0)
    found = census.found
    print(f"manifest: {found.n_rows} clips{added}, {census.n_labels} labels in {config.out}")
    if found.is_remarkable:
        print(f"manifest: {printable(str(found))}")
    # Where a file is at the row's path as well, that one is read.
    if lost := {path: now for path, now in moved.items() if not dataset.listing.holds(path)}:
        print(f"manifest: {printable(_told_moved(lost))}")
    n_bad = found.n_missing + found.n_unread_videos + len(found.closed)
    if config.check:
        n_bad += _check(config.out, dataset.listing.root)
    return 1 if config.strict and n_bad else 0


def _told_moved(moved: Mapping[str, str]) -> str:
    """Say how many files aren't where their clips' rows have them, and what can be done."""
    path, now = next(iter(moved.items()))
    more = ", ..." if len(moved) > 1 else ""
    return (
        f"{len(moved):,} files of known clips have other paths than their rows, which stay as they "
        f"are ({now[-_SHOWN:]} for {path[-_SHOWN:]}{more}): link each to the row's path, and "
        "jobs.attribute --retry-failed missing takes it in"
    )


def _marked(pieces: "Iterable[pa.Table]") -> "Iterator[pa.Table]":
    """Have rows be segments of their files."""
    from pipeline.dataset.manifest import mark_segments

    first_row = 0
    for piece in pieces:
        yield mark_segments(piece, first_row)
        first_row += piece.num_rows


def _check(out: str, root: str) -> int:
    """Open every clip's header, write what each says, and say how many can't be opened."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tqdm import tqdm

    from pipeline.clips.check import check_headers
    from pipeline.dataset.manifest import read_manifest
    from pipeline.status import Status
    from pipeline.storage.files import write_bytes
    from pipeline.text import printable

    url = f"{out.removesuffix('.parquet')}.checked.parquet"
    manifest = read_manifest(out)
    paths = manifest.rows(0, manifest.n_rows)["path"].to_pylist()
    checked = check_headers(root, paths, n_workers=min(8, os.cpu_count() or 1))
    headers = list(tqdm(checked, total=len(paths), unit="clip", disable=None, leave=False))
    written = pa.BufferOutputStream()
    columns = {
        "row": pa.array(range(len(paths)), pa.int64()),
        "path": pa.array(paths, pa.string()),
        "header": pa.array([str(header) for header in headers], pa.string()),
        "n_frames": pa.array([header.n_frames for header in headers], pa.int64()),
        "last_frame_s": pa.array([header.last_frame_s for header in headers], pa.float64()),
    }
    pq.write_table(pa.table(columns), written)
    with writing("out", url):
        write_bytes(url, memoryview(written.getvalue()))
    bad = Counter(header.status.label for header in headers if header.status is not Status.OK)
    told = ", ".join(f"{count:,} {label}" for label, count in bad.most_common())
    n_ok = len(headers) - bad.total()
    print(printable(f"manifest: {n_ok:,} headers ok{f', {told}' if told else ''}; see {url}"))
    return bad.total()


if __name__ == "__main__":
    sys.exit(run_job(ManifestConfig, manifest, verb="manifest"))
