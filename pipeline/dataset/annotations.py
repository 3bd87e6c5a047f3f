"""Annotation files to manifest rows: one function for each form that datasets come with.

Each gives rows in the file's order: `video_id`, `path`, and where the file tells them `label`,
`start_time`, `end_time` and `split`; keys beyond those become further columns. A clip that is
annotated and absent stays a row. Sources of the forms are the datasets' own pages.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from pipeline.dataset.listing import VIDEO_SUFFIXES, Listing
from pipeline.dataset.manifest import filesystem_of
from pipeline.errors import ManifestError, reason_of
from pipeline.storage.files import check_is_file
from pipeline.storage.retries import with_retries

Row = dict[str, Any]

KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")


def kinetics(url: str, listing: Listing) -> Iterator[Row]:
    """Kinetics' CSV of ``label, youtube_id, time_start, time_end, split``; test lists lack labels.

    Files are ``<youtube_id>_<start>_<end>``, times in s to six digits or as they are, or
    ``<youtube_id>`` alone where the video is annotated once; anywhere below the folder.
    """
    reader = _csv(url, "kinetics")
    absent = [name for name in KINETICS_COLUMNS if name not in (reader.fieldnames or ())]
    if absent and absent != ["label"]:
        raise ManifestError(
            f"layout kinetics: {url} has no column {', '.join(absent)}; "
            f"expected a header with {','.join(KINETICS_COLUMNS)}"
        )
    rows = list(_whole_rows(reader, url, "kinetics", "youtube_id"))
    times_annotated = Counter(row["youtube_id"] for _, row in rows)
    for where, row in rows:
        video = row["youtube_id"]
        try:
            start, end = float(row["time_start"]), float(row["time_end"])
            name = f"{video}_{int(start):06d}_{int(end):06d}"
        except (ValueError, OverflowError):
            raise ManifestError(
                f"{where}: times are {row['time_start'][:40]!r} and {row['time_end'][:40]!r}, "
                "expected s"
            ) from None
        names = [name, f"{video}_{int(start)}_{int(end)}"]
        if times_annotated[video] == 1:
            names.append(video)
        yield {
            "video_id": video,
            "path": _first_there(listing.by_stem, names, f"{name}.mp4"),
            "label": row.get("label") or None,
            "start_time": start,
            "end_time": end,
            "split": row["split"] or None,
        }


def charades(url: str, listing: Listing) -> Iterator[Row]:
    """Charades' CSV, ``id`` and ``actions`` as ``c092 11.90 21.20;c147 0.00 12.60`` among others.

    A video is one row; its classes are the column ``labels``, and its label if there is one alone.
    """
    for video, actions, where in charades_videos(url):
        if bad := [action for action in actions if len(action) != 3]:
            raise ManifestError(
                f"{where}: action {' '.join(bad[0])[:60]!r}, expected a class, its start and end"
            )
        yield _of_several(video, [action[0] for action in actions], listing)


def charades_videos(url: str) -> Iterator[tuple[str, list[list[str]], str]]:
    """Videos of Charades: the id, the words of each action, and where in the file it stands."""
    reader = _csv(url, "charades")
    if absent := [name for name in ("id", "actions") if name not in (reader.fieldnames or ())]:
        raise ManifestError(
            f"layout charades: {url} has no column {', '.join(absent)}; expected Charades' CSV"
        )
    for where, row in _whole_rows(reader, url, "charades", "id"):
        actions = [action.split() for action in row["actions"].split(";") if action.strip()]
        yield row["id"], actions, where


def ava_kinetics(url: str, listing: Listing) -> Iterator[Row]:
    """Lines of AVA and AVA-Kinetics: video, time, box (4), action, person; no header.

    A video is one row; its actions' numbers are the column ``labels``.
    """
    actions: dict[str, list[str]] = {}
    for video, _, action in ava_lines(url):
        actions.setdefault(video, []).extend(action)
    for video, labels in actions.items():
        yield _of_several(video, labels, listing)


def ava_lines(url: str) -> Iterator[tuple[str, float, list[str]]]:
    """Lines of AVA: the video, the time in s, and the number of the action, if it has one.

    Raises
    ------
    ManifestError
        Names the first line that is another one.
    """
    for number, cells in enumerate(csv.reader(io.StringIO(read_text(url, "ava"))), start=1):
        if not cells:
            continue
        # A frame without a person has no box and action.
        if len(cells) not in (2, 7, 8) or not _is_number(cells[1]):
            raise ManifestError(
                f"layout ava-kinetics: {url} line {number}: {_short(','.join(cells))}, expected "
                "video, time, box, action and person"
            )
        action = cells[6].strip() if len(cells) > 2 else ""
        yield cells[0], float(cells[1]), [action] if action else []


def activitynet(url: str, listing: Listing) -> Iterator[Row]:
    """ActivityNet's JSON: ``database``, by video, with ``subset`` and labelled ``annotations``."""
    for video, subset, annotations, where in activitynet_videos(url):
        labels = []
        for annotation in annotations:
            label = annotation.get("label") if isinstance(annotation, dict) else None
            if not isinstance(label, str):
                raise ManifestError(f"{where}: {_short(annotation)}, expected one with a label")
            labels.append(label)
        row = _of_several(video, labels, listing, names=activitynet_names(video))
        yield row | {"split": subset}


def activitynet_videos(url: str) -> Iterator[tuple[str, str | None, list[Any], str]]:
    """Videos of ActivityNet's JSON: id, subset, annotations, and where that is, for messages.

    Raises
    ------
    ManifestError
        Names the first part that isn't what it should be; annotations aren't looked into.
    """
    content = _json(url, "activitynet")
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict):
        raise ManifestError(f"layout activitynet: {url} has no table 'database' at its top")
    for video, entry in database.items():
        where = f"layout activitynet: {url}, video {video[:40]!r}"
        annotations = entry.get("annotations", []) if isinstance(entry, dict) else None
        if not isinstance(annotations, list):
            raise ManifestError(f"{where}: {_short(entry)}, expected a table with annotations")
        subset = entry.get("subset")
        if subset is not None and not isinstance(subset, str):
            raise ManifestError(f"{where}: subset is {_short(subset)}, expected text")
        yield video, subset, annotations, where


def activitynet_names(video: str) -> tuple[str, str]:
    """Names that the files of a video of ActivityNet have, without their suffix."""
    return f"v_{video}", video


def something_something(url: str, listing: Listing) -> Iterator[Row]:
    """Something-Something V2's JSON: a list with ``id`` and ``template``; test lists have no other.

    The label is the template without its brackets, as the published classes are named.
    """
    content = _json(url, "ssv2")
    if not isinstance(content, list):
        raise ManifestError(f"layout ssv2: {url} has no list at its top, expected one of videos")
    for number, entry in enumerate(content):
        where = f"layout ssv2: {url}, entry {number}"
        video = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(video, str | int) or isinstance(video, bool) or video == "":
            raise ManifestError(f"{where}: {_short(entry)}, expected one with an id")
        template = entry.get("template")
        if template is not None and not isinstance(template, str):
            raise ManifestError(f"{where}: template is {_short(template)}, expected text")
        label = re.sub(r"[\[\]]", "", template) if template else None
        yield {
            "video_id": str(video),
            "path": _first_there(listing.by_stem, [str(video)], f"{video}.webm"),
            "label": label,
        }


def ucf101(url: str, listing: Listing) -> Iterator[Row]:
    """UCF-101's lists of ``<class>/<file>``, those of training with a number behind.

    The label is the folder's name, so that it doesn't matter where the numbers count from.
    """
    for number, line in enumerate(read_text(url, "ucf101").splitlines(), start=1):
        if not line.strip():
            continue
        parts = line.split()
        where = f"layout ucf101: {url} line {number}"
        if (
            len(parts) > 2
            or parts[0].count("/") != 1
            or not _has_suffix(parts[0])
            or not all(part.isdecimal() for part in parts[1:])
        ):
            raise ManifestError(f"{where}: {_short(line)}, expected <class>/<file> and a number")
        path = parts[0]
        if not listing.holds(path):
            path = listing.by_name.get(PurePosixPath(path).name, path)
        yield _row(path, label=parts[0].split("/")[0])


def hmdb51(url: str, listing: Listing) -> Iterator[Row]:
    """HMDB-51's ``<class>_test_split<n>.txt``: a folder or glob of one split's files, or one file.

    Lines are a file's name and 1 (training), 2 (test) or 0, which is in neither.
    """
    files = _split_files(url)
    numbers = sorted({found[2] for found in files})
    if len(numbers) > 1:
        raise ManifestError(
            f"layout hmdb51: {url} has splits {', '.join(numbers)}, each of all clips: expected "
            f"one, for example {url.rstrip('/')}/*_split{numbers[0]}.txt"
        )
    for file, label, _ in files:
        for number, line in enumerate(read_text(file, "hmdb51").splitlines(), start=1):
            if not line.strip():
                continue
            name, _, part = line.strip().rpartition(" ")
            if part not in ("0", "1", "2") or not _has_suffix(name.strip()):
                raise ManifestError(
                    f"layout hmdb51: {file} line {number}: {_short(line)}, expected a file's name "
                    "and 0, 1 or 2"
                )
            name = name.strip()
            path = f"{label}/{name}"
            if not listing.holds(path):
                path = listing.by_name.get(name, path)
            yield _row(path, label=label) | {"split": (None, "train", "test")[int(part)]}


def listed(url: str, listing: Listing, comments: list[str]) -> Iterator[Row]:
    """Lines of a path and perhaps a label, between them a tab, a comma, a semicolon or spaces.

    A path ends in a suffix of videos, or is that of a file that is there. Names may hold spaces and
    commas. Empty lines are passed over, and so are those that begin with ``#``, which go to
    ``comments``, unless they name a file that is there.
    """
    for number, line in enumerate(read_text(url, "list").split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        path, label = _path_and_label(line, listing)
        if line.lstrip().startswith("#") and not (path and listing.holds(path)):
            comments.append(line)
            continue
        numbers = re.split(r"[\s,;]+", label)
        several = len(numbers) > 1 and all(_is_number(value) for value in numbers)
        if not path or several or "\t" in label:
            raise ManifestError(
                f"layout list: {url} line {number}: {_short(line)}, expected a path and one label"
                f"{_hint(line)}"
            )
        yield _row(path, label=label or None)


def _path_and_label(line: str, listing: Listing) -> tuple[str, str]:
    """Split a line where a path ends: at a file that is there, or else behind a video's suffix."""
    candidates = []
    tab = line.find("\t")
    ends = [*(found.start() for found in re.finditer("[,; ]", line)), len(line)]
    for end in [tab] if tab >= 0 else ends:
        path = listing.below_root(line[:end].strip())
        label = re.sub(r"^\s*[,;]?\s*", "", line[end:]).strip()
        if path and listing.holds(path):
            candidates.append((True, path, label))
        elif _has_suffix(path):
            candidates.append((False, path, label))
    # The longest, and a file that is there before one that isn't.
    there = [found for found in candidates if found[0]]
    _, path, label = (there or candidates or [(False, "", "")])[-1]
    return path, label


def _hint(line: str) -> str:
    """Say what a line that isn't one of a list looks like."""
    if line.lstrip()[:1] in ("{", "["):
        return "; this is JSON, as Something-Something (ssv2) and ActivityNet (activitynet) have it"
    if re.fullmatch(r"\s*\w+(\s*[,;\t]\s*\w+)+\s*", line):
        return "; a table with a header is read by --layout table"
    return ""


def _split_files(url: str) -> list[tuple[str, str, str]]:
    """URL, class and split of each file of HMDB's splits, sorted."""
    filesystem, path = filesystem_of(url)
    if with_retries(url, lambda: filesystem.isdir(path)):
        found = with_retries(url, lambda: filesystem.ls(path, detail=False))
    elif re.search(r"[*?[]", path) and not filesystem.exists(path):
        found = with_retries(url, lambda: filesystem.glob(path))
    else:
        found = [path]
    files = []
    for file in sorted(found):
        name = re.fullmatch(r"(.+)_test_split(\d)\.txt", PurePosixPath(file).name)
        if name:
            files.append((str(filesystem.unstrip_protocol(file)), name[1], name[2]))
    if not files:
        raise ManifestError(f"layout hmdb51: no file in {url} is named <class>_test_split<n>.txt")
    return files


def _of_several(
    video: str, labels: list[str], listing: Listing, names: Iterable[str] | None = None
) -> Row:
    """Row of a video that may have several classes, as text in the column ``labels``."""
    distinct = list(dict.fromkeys(labels))
    known = tuple(names or (video,))
    return {
        "video_id": video,
        "path": _first_there(listing.by_stem, known, f"{known[0]}.mp4"),
        "label": distinct[0] if len(distinct) == 1 else None,
        "labels": ";".join(distinct) or None,
    }


def _first_there(files: dict[str, str], names: Iterable[str], expected: str) -> str:
    """Path of the first name that there is a file of, else the one that was expected."""
    return next((files[name] for name in names if name in files), expected)


def _row(path: str, *, label: str | None = None) -> Row:
    return {"video_id": PurePosixPath(path).stem, "path": path, "label": label}


def _csv(url: str, layout: str) -> "csv.DictReader[str]":
    return csv.DictReader(io.StringIO(read_text(url, layout), newline=""))


def _whole_rows(
    reader: "csv.DictReader[str]", url: str, layout: str, key: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows, each with where it stands, that have one value a column and a video."""
    for row in reader:
        where = f"layout {layout}: {url} line {reader.line_num}"
        if None in row or None in row.values() or not row[key]:
            raise ManifestError(f"{where}: expected one value a column, {key} not empty")
        yield where, row


def _json(url: str, layout: str) -> Any:
    try:
        return json.loads(read_text(url, layout))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"layout {layout}: {url} is not JSON: {reason_of(error)}") from error


def read_text(url: str, layout: str) -> str:
    """Read an annotation file.

    Raises
    ------
    ManifestError
        When it can't be read, or isn't text in UTF-8.
    """
    try:
        filesystem, path = filesystem_of(url)
        check_is_file(filesystem, path)
        # `utf-8-sig`: a spreadsheet puts a byte order mark before the first column's name.
        data = with_retries(url, lambda: filesystem.cat_file(path))
        return str(data.decode("utf-8-sig"))
    except OSError as error:
        raise ManifestError(f"layout {layout}: can't read {url}: {reason_of(error)}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"layout {layout}: {url} is not text in UTF-8: {error}") from error


def _has_suffix(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"\s*-?\d+(\.\d*)?\s*", text))


def _short(value: object) -> str:
    """Tell a value, no more of it than is needed to find it."""
    text = repr(value) if not isinstance(value, dict | list) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


READERS: dict[str, Callable[[str, Listing], Iterator[Row]]] = {
    "kinetics": kinetics,
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    "ssv2": something_something,
    "charades": charades,
    "activitynet": activitynet,
    "ava-kinetics": ava_kinetics,
}
"""By layout, what reads its annotation file."""
