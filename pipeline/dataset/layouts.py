"""Dataset layouts to manifest rows, in an order that depends on nothing but the input.

Annotation files keep their order, listings are sorted. A clip that is annotated but absent stays a
row, and becomes a named failure when it is decoded.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

import fsspec
import pyarrow as pa

from pipeline.credentials import without_credentials
from pipeline.dataset.manifest import (
    FORMAT_VERSION,
    METADATA_KEYS,
    SCHEMA,
    Manifest,
    check_paths,
    filesystem_of,
)
from pipeline.errors import ManifestError
from pipeline.storage.files import open_filesystem
from pipeline.storage.retries import with_retries

Layout = Literal["kinetics", "folders", "list", "files"]

KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".ogv", ".webm", ".wmv"),
)


def build_manifest(
    *, layout: str, clips: str, annotations: str | None = None, split: str | None = None
) -> pa.Table:
    """List a dataset's clips.

    Parameters
    ----------
    layout
        ``kinetics``: an annotation CSV with the columns ``label, youtube_id, time_start, time_end,
        split``, and files ``<youtube_id>_<start>_<end>.<suffix>``, times in s to six digits,
        anywhere under ``clips``; of files with one name the first in sorted order counts.
        ``folders``: a folder per class, files below it. ``list``: a list file with a path, and
        optionally a label, per line: what follows a tab or, in a line without one, what follows the
        last space, if that is behind a file name's suffix (so that a path may hold spaces). Empty
        lines and those that start with ``#`` are passed over. ``files``: a folder and what is below
        it, a glob, or one file; no labels.
    clips
        URL of the folder that holds the clips and becomes the manifest's root.
    annotations
        URL of the CSV (``kinetics``) or of the list file (``list``).
    split
        Keep the CSV's rows of this split alone (``kinetics``).

    Returns
    -------
    A table with the manifest's columns, its root and layout in the schema's metadata.

    Raises
    ------
    ManifestError
        When the layout is unknown, what it needs is absent or malformed, a path leaves the root, or
        there is no clip.
    """
    if layout not in get_args(Layout):
        raise ManifestError(f"layout {layout!r}: expected one of {', '.join(get_args(Layout))}")
    if (annotations is None) == (layout in ("kinetics", "list")):
        wanted = "none" if annotations else "the URL of the CSV or list file"
        raise ManifestError(f"layout {layout}: annotations is {annotations!r}, expected {wanted}")
    if split is not None and layout != "kinetics":
        raise ManifestError(f"layout {layout}: split is {split!r}, expected none; kinetics has it")

    try:
        root, listing = with_retries(clips, lambda: _list_clips(clips, layout))
    except OSError as error:
        raise ManifestError(f"layout {layout}: can't list {clips}: {error}") from error
    rows: Iterable[dict[str, Any]]
    if layout == "kinetics":
        rows = _kinetics_rows(str(annotations), listing, split)
    elif layout == "list":
        rows = _list_rows(str(annotations))
    elif layout == "folders":
        rows = (_row(path, label=path.split("/")[0]) for path in listing if "/" in path)
    else:
        rows = (_row(path) for path in listing)
    metadata = dict(zip(METADATA_KEYS, (FORMAT_VERSION, root, layout), strict=True))
    try:
        table = pa.Table.from_pylist(list(rows), schema=SCHEMA.with_metadata(metadata))
    except csv.Error as error:
        raise ManifestError(f"layout {layout}: {annotations} is not CSV: {error}") from error
    except UnicodeEncodeError as error:
        raise ManifestError(
            f"layout {layout}: {error.object!r} below {clips}: expected names in UTF-8"
        ) from error
    if table.num_rows == 0:
        of_split = f" of split {split!r}" if split else ""
        wanted = ", expected a folder for each class" if layout == "folders" else ""
        raise ManifestError(f"layout {layout}: no clip{of_split} in {annotations or clips}{wanted}")
    check_paths(table["path"].to_pylist(), annotations or clips)
    return table


def append_clips(old: Manifest, table: pa.Table) -> pa.Table:
    """Put the clips that a manifest doesn't have behind its rows, for a run to take in.

    A layout's own order may put them between the others, as a file in a class folder. Here the old
    rows stay as they are, also those of clips that are gone, or have other paths or labels by now.

    Parameters
    ----------
    table
        The dataset as it is now, from `build_manifest`: its clips that aren't in ``old`` are added,
        in its order. Those of Kinetics are known by their video and times, since a file that comes
        later may lie elsewhere than its row expected; others by their path.

    Raises
    ------
    ManifestError
        When the manifest is of another root or layout, so that paths mean others.
    """
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    for what, was, now in (
        ("root", old.root, metadata["staa.root"]),
        ("layout", old.layout, metadata["staa.layout"]),
    ):
        if was != now:
            raise ManifestError(
                f"manifest {old.url} is of the {what} {without_credentials(was)}, "
                f"and the clips to append are of {without_credentials(now)}"
            )
    rows = old.rows(0, old.n_rows)
    key = ("video_id", "start_time", "end_time") if old.layout == "kinetics" else ("path",)
    known = set(_values(rows, key))
    new = table.filter(pa.array([values not in known for values in _values(table, key)]))
    return pa.concat_tables([rows.replace_schema_metadata(table.schema.metadata), new])


def _values(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Values of some columns, row by row."""
    return zip(*(table[column].to_pylist() for column in columns), strict=True)


def _list_clips(clips: str, layout: str) -> tuple[str, list[str]]:
    """Root URL, and the sorted paths below it of the video files that are there."""
    filesystem, base = filesystem_of(clips)
    if filesystem.isdir(base):
        if layout == "list":
            return _root_url(filesystem, base, clips), []
        found = filesystem.find(base)
    elif layout != "files":
        raise ManifestError(f"layout {layout}: {clips} is not a folder, expected that of the clips")
    elif filesystem.isfile(base):
        # Asked for by name, so whatever its suffix is.
        base, name = base.rsplit("/", 1)
        return _root_url(filesystem, base, clips), [name]
    elif re.search(r"[*?[]", base):
        found = filesystem.glob(base)
        fixed = re.split(r"[*?[]", base, maxsplit=1)[0]
        base = fixed.rsplit("/", 1)[0]
    else:
        raise ManifestError(f"layout {layout}: nothing at {clips}, expected a folder, glob or file")
    prefix = base.rstrip("/") + "/"
    paths = [path.removeprefix(prefix) for path in found]
    videos = [path for path in paths if PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES]
    return _root_url(filesystem, base, clips), sorted(videos)


def _root_url(filesystem: fsspec.AbstractFileSystem, base: str, clips: str) -> str:
    """URL under which workers find the folder; some hold more than a protocol and a path."""
    url = str(filesystem.unstrip_protocol(base))
    try:
        found = open_filesystem(url) == (filesystem, base)
    except (OSError, ValueError, TypeError):
        found = False
    if not found:
        raise ManifestError(
            f"clips below {clips} can't be found again by {url}: expected a URL that is a protocol "
            "and a path, with hosts and credentials in fsspec's configuration"
        )
    return url


def _kinetics_rows(
    annotations: str, listing: list[str], split: str | None
) -> Iterator[dict[str, Any]]:
    by_name: dict[str, str] = {}
    for path in listing:
        by_name.setdefault(PurePosixPath(path).stem, path)
    reader = csv.DictReader(io.StringIO(_read_text(annotations, "kinetics"), newline=""))
    absent = [name for name in KINETICS_COLUMNS if name not in (reader.fieldnames or ())]
    if absent:
        raise ManifestError(
            f"layout kinetics: {annotations} has no column {', '.join(absent)}; "
            f"expected a header with {','.join(KINETICS_COLUMNS)}"
        )
    for row in reader:
        where = f"layout kinetics: {annotations} line {reader.line_num}"
        if None in row or None in row.values() or not row["youtube_id"]:
            raise ManifestError(f"{where}: expected one value a column, youtube_id not empty")
        try:
            start, end = float(row["time_start"]), float(row["time_end"])
            name = f"{row['youtube_id']}_{int(start):06d}_{int(end):06d}"
        except (ValueError, OverflowError):
            raise ManifestError(
                f"{where}: times are {row['time_start']!r} and {row['time_end']!r}, expected s"
            ) from None
        if split is None or row["split"] == split:
            yield {
                "video_id": row["youtube_id"],
                "path": by_name.get(name, f"{name}.mp4"),
                "label": row["label"] or None,
                "start_time": start,
                "end_time": end,
                "split": row["split"] or None,
            }


def _list_rows(annotations: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_read_text(annotations, "list").split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if "\t" in line:
            path, _, label = line.partition("\t")
        else:
            path, _, label = line.strip().rpartition(" ")
            if PurePosixPath(path.rstrip()).suffix.lower() not in VIDEO_SUFFIXES:
                path, label = line, ""
        path, label = path.strip(), label.strip()
        if not path or "\t" in label:
            raise ManifestError(
                f"layout list: {annotations} line {number}: {line!r}, expected a path and a label"
            )
        yield _row(path, label=label or None)


def _row(path: str, *, label: str | None = None) -> dict[str, Any]:
    return {"video_id": PurePosixPath(path).stem, "path": path, "label": label}


def _read_text(url: str, layout: str) -> str:
    try:
        filesystem, path = filesystem_of(url)
        # `utf-8-sig`: a spreadsheet puts a byte order mark before the first column's name.
        data = with_retries(url, lambda: filesystem.cat_file(path))
        return str(data.decode("utf-8-sig"))
    except OSError as error:
        raise ManifestError(f"layout {layout}: can't read {url}: {error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"layout {layout}: {url} is not text in UTF-8: {error}") from error
