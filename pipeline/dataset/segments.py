"""Annotation files of untrimmed sets to manifest rows, each the segment of a file that is one clip.

Where `pipeline.dataset.annotations` has a row for each video, here is one for each action: its
class, and from where to where in the file it goes, in s. Rows come in the file's order.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence

from pipeline.dataset.annotations import (
    Row,
    _csv,
    _first_there,
    _of_several,
    _short,
    _whole_rows,
    activitynet_names,
    activitynet_videos,
    ava_lines,
    charades_videos,
)
from pipeline.dataset.listing import Listing
from pipeline.errors import ManifestError

AVA_SEGMENT_S = 3.0
"""Length of the segment whose middle AVA annotates (arXiv 1705.08421)."""
_EPIC_COLUMNS = ("narration_id", "video_id", "start_timestamp", "stop_timestamp", "verb", "noun")


def charades(url: str, listing: Listing) -> Iterator[Row]:
    """Charades' CSV, whose ``actions`` are ``c092 11.90 21.20;c147 0.00 12.60``."""
    for video, actions, where in charades_videos(url):
        for label, *times in actions:
            yield _segment(video, label, _seconds(times, where), listing)


def activitynet(url: str, listing: Listing) -> Iterator[Row]:
    """ActivityNet's JSON: in ``database``, by video, ``annotations`` of a label and a segment."""
    for video, subset, annotations, where in activitynet_videos(url):
        for annotation in annotations:
            told = annotation if isinstance(annotation, dict) else {}
            label, segment = told.get("label"), told.get("segment")
            if not isinstance(label, str) or not isinstance(segment, list):
                raise ManifestError(
                    f"{where}: {_short(annotation)}, expected one with a label and a segment"
                )
            times = _seconds([str(time) for time in segment], where)
            row = _segment(video, label, times, listing, names=activitynet_names(video))
            yield row | {"split": subset}


def ava_kinetics(url: str, listing: Listing) -> Iterator[Row]:
    """Lines of AVA: video, time, box (4), action, person; a row for each time of a video.

    A segment is the `AVA_SEGMENT_S` around the time, as far as the video has begun by then. The
    numbers of its actions are the column ``labels``.
    """
    actions: dict[tuple[str, float], list[str]] = {}
    for video, time, action in ava_lines(url):
        actions.setdefault((video, time), []).extend(action)
    for (video, time), labels in actions.items():
        half = AVA_SEGMENT_S / 2
        times = {"start_time": max(0.0, time - half), "end_time": time + half}
        yield _of_several(video, labels, listing) | times


def epic_kitchens(url: str, listing: Listing) -> Iterator[Row]:
    """EPIC-KITCHENS' CSV, a line for each narrated action, with times as ``hh:mm:ss.ss``.

    The label is the verb; ``noun`` and ``narration_id`` are further columns.
    """
    reader = _csv(url, "epic-kitchens")
    if absent := [name for name in _EPIC_COLUMNS if name not in (reader.fieldnames or ())]:
        raise ManifestError(
            f"layout epic-kitchens: {url} has no column {', '.join(absent)}; expected a header "
            f"with {','.join(_EPIC_COLUMNS)}"
        )
    for where, row in _whole_rows(reader, url, "epic-kitchens", "video_id"):
        times = _seconds([row["start_timestamp"], row["stop_timestamp"]], where)
        segment = _segment(row["video_id"], row["verb"], times, listing)
        yield segment | {"noun": row["noun"], "narration_id": row["narration_id"]}


def _segment(
    video: str,
    label: str,
    times: tuple[float, float],
    listing: Listing,
    names: Sequence[str] | None = None,
) -> Row:
    known = tuple(names or (video,))
    return {
        "video_id": video,
        "path": _first_there(listing.by_stem, known, f"{known[0]}.mp4"),
        "label": label,
        "start_time": times[0],
        "end_time": times[1],
    }


def _seconds(texts: Sequence[str], where: str) -> tuple[float, float]:
    """Start and end in s, of seconds or of ``hh:mm:ss``."""
    seconds = [_clock_s(text.strip()) for text in texts]
    if len(seconds) != 2 or not 0 <= seconds[0] < seconds[1] < math.inf:
        raise ManifestError(
            f"{where}: a segment is {_short(' to '.join(texts))}, expected its start and, behind "
            "it, its end, in s"
        )
    return seconds[0], seconds[1]


def _clock_s(text: str) -> float:
    """Seconds of a text; NaN if it is no time."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?(e-?\d+)?", text):
        return math.nan
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


SEGMENT_READERS: dict[str, Callable[[str, Listing], Iterator[Row]]] = {
    "charades": charades,
    "activitynet": activitynet,
    "ava-kinetics": ava_kinetics,
    "epic-kitchens": epic_kitchens,
}
"""By layout, what reads its annotation file segment by segment."""
