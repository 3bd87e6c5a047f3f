"""Dataset layouts to manifest rows, in an order that depends on nothing but the input.

Annotation files keep their order, listings are sorted. A clip that is annotated but absent stays a
row, and becomes a named failure when it is decoded.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.annotations import READERS, Row, listed
from pipeline.dataset.columns import SCHEMA, check_path_column
from pipeline.dataset.listing import OTHER_VIDEO_SUFFIXES, Coverage, Listing, list_folder
from pipeline.dataset.manifest import FORMAT_VERSION, METADATA_KEYS, Manifest
from pipeline.dataset.segments import SEGMENT_READERS
from pipeline.dataset.tables import AtOnce, read_table
from pipeline.errors import ManifestError, reason_of
from pipeline.text import without_credentials

_OF_SEGMENTS = tuple(layout for layout in SEGMENT_READERS if layout not in READERS)
"""Layouts whose rows are never whole files."""
LAYOUTS = ("kinetics", "folders", "list", "files", "table", *list(READERS)[1:], *_OF_SEGMENTS)
_ANNOTATED = ("list", "table", *READERS, *_OF_SEGMENTS)
_NAMED_BY_FILE = ("ucf101", "hmdb51")
"""Annotated layouts that have no ids of videos: they name files, in folders of classes."""
_WITH_SPLIT = ("kinetics", "table", "hmdb51", "activitynet")

_SPLIT_FOLDERS = {
    *("train", "training", "val", "valid", "validate", "validation", "test", "testing"),
}


@dataclass(frozen=True)
class Dataset:
    """The clips of a dataset, and the files below its root.

    Attributes
    ----------
    pieces
        The manifest, in tables to be gone through once: its columns, further ones of the source,
        and in the schema's metadata root and layout. A table is read as they are asked for, and
        what is wrong with it is raised then.
    listing
        The files below the root.
    n_comments
        Lines of a list that were passed over.
    """

    pieces: Iterator[pa.Table]
    listing: Listing
    n_comments: int = 0


@dataclass(frozen=True)
class Found:
    """How the rows of a manifest and the files below its root go together."""

    n_rows: int
    n_missing: int
    """Rows whose file isn't there."""
    missing: tuple[str, ...]
    """Paths of the first of them."""
    n_unused: int
    """Clips that no row is of."""
    passed_over: Counter[str]
    """Files that aren't taken for clips, by suffix."""
    n_hidden: int
    n_comments: int
    closed: tuple[str, ...] = ()
    """Folders that this user may not read."""

    @property
    def is_remarkable(self) -> bool:
        """Whether rows and files aren't the same, one by one."""
        return bool(
            self.n_missing
            or self.n_unused
            or self.passed_over
            or self.n_hidden
            or self.n_comments
            or self.closed
        )

    @property
    def n_unread_videos(self) -> int:
        """Files that are passed over and are video by their suffix."""
        return sum(self.passed_over[suffix] for suffix in OTHER_VIDEO_SUFFIXES)

    def __str__(self) -> str:
        told = [f"{self.n_rows:,} rows, {self.n_rows - self.n_missing:,} files found"]
        if self.n_missing:
            shown = ", ".join(_shown(path) for path in self.missing)
            more = ", ..." if self.n_missing > len(self.missing) else ""
            told.append(f"{self.n_missing:,} missing ({shown}{more})")
        if self.n_unused:
            told.append(f"{self.n_unused:,} files not used")
        if self.passed_over:
            shown = ", ".join(
                f"{suffix[:12]} {n:,}" for suffix, n in self.passed_over.most_common(3)
            )
            more = ", ..." if len(self.passed_over) > 3 else ""
            total = self.passed_over.total()
            told.append(f"{total:,} passed over for their suffix ({shown}{more})")
        if self.n_hidden:
            told.append(f"{self.n_hidden:,} hidden files passed over")
        if self.closed:
            told.append(_told_closed(self.closed))
        if self.n_comments:
            told.append(f"{self.n_comments:,} lines passed over that begin with #")
        return ", ".join(told)


class Census:
    """Counts the rows of a manifest, piece by piece: their labels, and their files."""

    def __init__(self, dataset: Dataset) -> None:
        """Begin with no row."""
        self._dataset = dataset
        self._coverage = Coverage(dataset.listing)
        self._labels: set[str] = set()

    def counted(self, pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Give tables as they come, each of which is counted."""
        for piece in pieces:
            self._coverage.update(piece["path"])
            self._labels.update(piece["label"].drop_null().unique().to_pylist())
            yield piece

    @property
    def n_labels(self) -> int:
        """Different labels so far."""
        return len(self._labels)

    @property
    def found(self) -> Found:
        """How rows and files go together."""
        listing = self._dataset.listing
        return Found(
            n_rows=self._coverage.n_rows,
            n_missing=self._coverage.n_missing,
            missing=tuple(self._coverage.missing),
            n_unused=self._coverage.n_unused,
            passed_over=listing.passed_over(),
            n_hidden=listing.n_hidden,
            n_comments=self._dataset.n_comments,
            closed=listing.closed,
        )


def build_manifest(
    *,
    layout: str,
    clips: str,
    annotations: str | None = None,
    split: str | None = None,
    labels_from: int | None = None,
    columns: Mapping[str, str] | None = None,
    segments: bool = False,
) -> pa.Table:
    """List a dataset's clips: the pieces of `read_dataset` as one table."""
    dataset = read_dataset(
        layout=layout,
        clips=clips,
        annotations=annotations,
        split=split,
        labels_from=labels_from,
        columns=columns,
        segments=segments,
    )
    return pa.concat_tables(dataset.pieces)


def read_dataset(
    *,
    layout: str,
    clips: str,
    annotations: str | None = None,
    split: str | None = None,
    labels_from: int | None = None,
    columns: Mapping[str, str] | None = None,
    segments: bool = False,
    at_once: AtOnce | None = None,
) -> Dataset:
    """List a dataset's clips.

    Parameters
    ----------
    layout
        ``folders``: a folder per class, files below it; a folder that is named as a split, as
        ``train/<class>/x.mp4``, holds the folders of classes. ``files``: a folder and what is below
        it, a glob, or one file; no labels. ``list``: a file of lines as
        `pipeline.dataset.annotations.listed` has them. ``table``: a Parquet or CSV table with a
        column of paths, as `pipeline.dataset.tables` has it. The others are datasets' own forms,
        see `pipeline.dataset.annotations`. Hidden files, whose names begin with a dot, are none.
    clips
        URL of the folder that holds the clips and becomes the manifest's root.
    annotations
        URL of the annotation file, list or table, where the layout has one.
    split
        Keep the rows of this split alone, where the annotation file tells splits.
    labels_from
        The number that labels count from, 0 or 1, where all of them are numbers and none is 0.
    columns
        Names of a table's columns by the manifest's, see `pipeline.dataset.tables.read_table`.
    segments
        A row for each annotated segment of a file, where the layout has such, in place of one for
        each file; see `pipeline.dataset.segments`.
    at_once
        How much of a table is read at a time.

    Raises
    ------
    ManifestError
        When the layout is unknown, what it needs is absent or malformed, a path leaves the root,
        labels may count from 1 and ``labels_from`` doesn't say, or there is no clip.
    """
    if layout not in LAYOUTS:
        raise ManifestError(f"layout {layout[:60]!r}: expected one of {', '.join(LAYOUTS)}")
    if layout in _OF_SEGMENTS and not segments:
        raise ManifestError(
            f"layout {layout}: its rows are segments of files, expected segments (--segments)"
        )
    if (annotations is None) == (layout in _ANNOTATED):
        wanted = "none" if annotations else "the URL of the annotation file, list or table"
        raise ManifestError(f"layout {layout}: annotations is {annotations!r}, expected {wanted}")
    if split is not None and layout not in _WITH_SPLIT:
        raise ManifestError(
            f"layout {layout}: split is {split!r}, expected none; {', '.join(_WITH_SPLIT)} have it"
        )
    if columns and layout != "table":
        raise ManifestError(f"layout {layout}: columns are {dict(columns)}, expected none")
    listing = list_folder(clips, layout)
    comments: list[str] = []
    with _source_told(layout, annotations, clips):
        if layout == "table":
            tables = read_table(str(annotations), listing, columns or {}, at_once or AtOnce())
        else:
            tables = iter([_table_of(_rows(layout, annotations, listing, comments, segments))])
    metadata = dict(zip(METADATA_KEYS, (FORMAT_VERSION, listing.root, layout), strict=True))

    def pieces() -> Iterator[pa.Table]:
        numbers = _LabelNumbers(layout, labels_from)
        is_empty = True
        with _source_told(layout, annotations, clips):
            for table in tables:
                if split is not None:
                    table = table.filter(pc.equal(table["split"], split))
                if table.num_rows:
                    check_path_column(table["path"], annotations or clips, listing.root)
                    is_empty = False
                    yield numbers.counted(table).replace_schema_metadata(metadata)
        if is_empty:
            of_split = f" of split {split!r}" if split else ""
            wanted = ", expected a folder for each class" if layout == "folders" else ""
            closed = f", where {_told_closed(listing.closed)}" if listing.closed else ""
            raise ManifestError(
                f"layout {layout}: no clip{of_split} in {annotations or clips}{closed}{wanted}"
            )
        numbers.check()

    return Dataset(pieces(), listing, len(comments))


@contextmanager
def _source_told(layout: str, annotations: str | None, clips: str) -> Iterator[None]:
    """Name the file or folder that can't be read, in place of what a library says."""
    try:
        yield
    except csv.Error as error:
        raise ManifestError(f"layout {layout}: {annotations} is not CSV: {error}") from error
    except UnicodeEncodeError as error:
        raise ManifestError(
            f"layout {layout}: {error.object!r} below {clips}: expected names in UTF-8"
        ) from error


def append_clips(old: Manifest, table: pa.Table) -> pa.Table:
    """Put the clips that a manifest doesn't have behind its rows, for a run to take in.

    A layout's own order may put them between the others, as a file in a class folder. Here the old
    rows stay as they are, also those of clips that are gone, or have other paths or labels by now.

    Parameters
    ----------
    table
        The dataset as it is now, from `build_manifest`: its clips that aren't in ``old`` are added,
        in its order. Where a layout looks for the files of what is annotated, clips are known by
        their annotation, since a file that comes later may lie elsewhere than its row expected;
        others by their path.

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
    rows = old.whole_table()
    known = set(_identities(rows, old))
    new = table.filter(pa.array([clip not in known for clip in _identities(table, old)]))
    try:
        # A further column that only one of both has is null in the other's rows.
        together = pa.concat_tables(
            [rows, new.replace_schema_metadata(None)], promote_options="permissive"
        )
    except pa.ArrowException as error:
        raise ManifestError(
            f"manifest {old.url}: a further column is of another type than in the clips to append: "
            f"{reason_of(error)}"
        ) from error
    return together.replace_schema_metadata(table.schema.metadata)


def moved_clips(old: Manifest, table: pa.Table) -> dict[str, str]:
    """Paths that files of a manifest's clips have by now, by those of its rows, where they differ.

    Parameters
    ----------
    table
        As in `append_clips`.
    """
    now = dict(zip(_identities(table, old), table["path"].to_pylist(), strict=True))
    rows = old.rows(0, old.n_rows)
    before = zip(_identities(rows, old), rows["path"].to_pylist(), strict=True)
    return {path: now[clip] for clip, path in before if now.get(clip, path) != path}


def _identities(table: pa.Table, manifest: Manifest) -> list[tuple[Any, ...]]:
    """Give what each row of a table is known by among the clips of a manifest."""
    if manifest.segments:
        return _values(table, ("video_id", "start_time", "end_time", "label"))
    if manifest.layout == "kinetics":
        return _values(table, ("video_id", "start_time", "end_time"))
    if manifest.layout in _NAMED_BY_FILE:
        # Of two classes there may be files of one name.
        names = [path.rsplit("/", 1)[-1] for path in table["path"].to_pylist()]
        return list(zip(table["label"].to_pylist(), names, strict=True))
    return _values(table, ("video_id",) if manifest.layout in READERS else ("path",))


def _values(table: pa.Table, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Values of some columns, row by row."""
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))


def _rows(
    layout: str,
    annotations: str | None,
    listing: Listing,
    comments: list[str],
    segments: bool,
) -> Iterable[Row]:
    if layout == "list":
        return listed(str(annotations), listing, comments)
    if segments and layout in SEGMENT_READERS:
        return SEGMENT_READERS[layout](str(annotations), listing)
    if layout in READERS:
        return READERS[layout](str(annotations), listing)
    if layout == "folders":
        return _folder_rows(listing)
    return ({"video_id": _stem(path), "path": path} for path in listing.paths)


def _folder_rows(listing: Listing) -> Iterator[Row]:
    """Rows of class folders; folders named as splits whose files all lie deeper hold classes."""
    below = [path.split("/") for path in listing.paths if "/" in path]
    depths: dict[str, int] = {}
    for parts in below:
        depths[parts[0]] = min(len(parts), depths.get(parts[0], len(parts)))
    splits = {name for name, depth in depths.items() if _is_split(name) and depth > 2}
    for parts in below:
        split = parts[0] if parts[0] in splits else None
        yield {
            "video_id": _stem(parts[-1]),
            "path": "/".join(parts),
            "label": parts[0] if split is None else parts[1],
            "split": split,
        }


def _is_split(name: str) -> bool:
    return name.casefold() in _SPLIT_FOLDERS


def _stem(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return re.sub(r"(.)\.[^.]*$", r"\1", name)


def _table_of(rows: Iterable[Row]) -> pa.Table:
    """Table of rows, which may have keys beyond a manifest's columns, of text."""
    found = list(rows)
    further = list(dict.fromkeys(key for row in found for key in row if key not in SCHEMA.names))
    schema = pa.schema([*SCHEMA, *(pa.field(name, pa.string()) for name in further)])
    return pa.Table.from_pylist(found, schema=schema)


class _LabelNumbers:
    """Has labels that are numbers count from 0, as a model's classes do; never by a guess."""

    def __init__(self, layout: str, labels_from: int | None) -> None:
        self._layout, self._from = layout, labels_from
        self._numbers: set[int] = set()
        self._has_names = False

    def counted(self, table: pa.Table) -> pa.Table:
        """Give further rows with labels that count from 0."""
        labels = table["label"].drop_null().unique().to_pylist()
        names = [label for label in labels if not re.fullmatch(r"-?\d{1,18}", label)]
        if names and self._from is not None:
            raise self._of_names(f"label {names[0]!r}")
        self._has_names |= bool(names)
        if not self._has_names:
            self._numbers.update(int(label) for label in labels)
        if not self._from:
            return table
        counted = [
            None if label is None else str(int(label) - self._from)
            for label in table["label"].to_pylist()
        ]
        place = table.schema.get_field_index("label")
        return table.set_column(place, SCHEMA.field("label"), pa.array(counted, pa.string()))

    def check(self) -> None:
        """Refuse labels of which it isn't said where they count from, once all rows were seen."""
        if self._has_names:
            return
        if not self._numbers:
            if self._from is not None:
                raise self._of_names("no label")
            return
        lowest, highest = min(self._numbers), max(self._numbers)
        if self._from is None:
            if 0 not in self._numbers:
                raise ManifestError(
                    f"layout {self._layout}: labels are numbers from {lowest} to {highest}, none "
                    "is 0: expected --labels-from 1 if they count from 1, or --labels-from 0"
                )
        elif lowest < self._from:
            raise ManifestError(
                f"labels_from is {self._from}, and the lowest label is {lowest}: expected labels "
                f"from {self._from} on"
            )

    def _of_names(self, found: str) -> ManifestError:
        return ManifestError(
            f"labels_from is {self._from}, expected none: {found[:80]} is in the data, and it is "
            "for labels that are numbers"
        )


def _told_closed(folders: Sequence[str]) -> str:
    more = ", ..." if len(folders) > 1 else ""
    return f"{len(folders):,} folders may not be read ({_shown(folders[0])}{more})"


def _shown(path: str) -> str:
    return path if len(path) <= 40 else f"...{path[-37:]}"
