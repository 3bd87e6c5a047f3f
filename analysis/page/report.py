"""A page about a run that opens from disk: what was found, and the maps of its classes."""

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from analysis.audit.audit import read_findings
from analysis.audit.drift import drift
from analysis.audit.evidence import read_evidence, t_says_which_frames_matter
from analysis.audit.finding import Finding, ranked
from analysis.audit.settings import AuditSettings
from analysis.measured_columns import sample_of_run
from analysis.page.chart_specs import chart_specs
from analysis.page.charts import chart_script
from analysis.page.choice import REASONS, Chosen, choose_clips, in_order_of_interest
from analysis.page.classes import (
    FLAG_MEANS,
    FLAGGED_SCORES,
    RESULTS,
    SHEET_COLUMNS,
    Maps,
    class_seconds,
    class_table,
    confusion,
    picture_of,
    profile_of,
)
from analysis.page.clips import clip_records
from analysis.page.comparison import OtherRun
from analysis.page.examples import ClipSource
from analysis.page.folder import PageFolder, render_shell, site_file
from analysis.page.pictures import palette
from analysis.page.run_tables import RunTables
from analysis.page.trust import trust_of
from analysis.score_table import describe_scores
from analysis.statistics import By, overall_statistics
from pipeline.errors import ManifestError, StorageError, StoreError
from pipeline.status import Status, failed_rows
from pipeline.store.run_folder import REPORT_NAME, in_run

MAX_FINDINGS = 1000
"""Findings that the page lists; the run's folder has them all."""
_MAX_FAILURES = 1000
_FIRST_FINDINGS = 6
"""Findings that the overview shows."""

_SITE_FILES = (
    *("base.js", "figures.js", "player.js", "plots.js", "lists.js", "views.js"),
    "page.css",
)

Progress = Callable[[int, int], None]


def write_report(
    run_url: str,
    out: str | None = None,
    *,
    by: By | None = None,
    statistics: xr.Dataset | None = None,
    found: Sequence[Finding] | None = None,
    other: str | None = None,
    clips_per_class: int = 2,
    clips_with_frames: int = 200,
    progress: Progress | None = None,
) -> str:
    """Write the page of a run: a folder of static files, over one that is there.

    Scores are read whole; attributions only of the clips that are shown. Clips whose source can't
    be read any more are shown by their maps alone, with the reason.

    Parameters
    ----------
    run_url
        The run's folder, any fsspec URL.
    out
        Folder of the page; by default ``report`` in the run's folder.
    by, statistics
        As in `RunTables.of_run`.
    found
        Findings, ranked; by default those beside the run, if they are of its rows as they are now.
    other
        Another run over the same classes, which is shown beside: as a rule the same videos and
        another model.
    clips_per_class
        Clips to show of each class for each reason: typical, odd, right and wrong ones.
    clips_with_frames
        Clips whose frames are read and shown: examples of findings first, then classes in turn.
    progress
        Is called with the classes and clips that are done, and all that are shown.

    Returns
    -------
    URL of the page

    Raises
    ------
    StoreError
        When there is no run at a URL, no clip is ok, or the runs' classes differ.
    """
    run = RunTables.of_run(run_url, by=by, statistics=statistics)
    beside = None
    if other is not None:
        beside = OtherRun.of(RunTables.of_run(other, by=run.by), run)
    if found is None:
        audited, found = _findings_beside(run_url)
    else:
        audited = True
    if other is not None:
        changes = drift(read_evidence(other), read_evidence(run_url), AuditSettings())
        found = ranked([*found, *changes])
    listed = list(found[:MAX_FINDINGS])
    source, source_note = _clip_source(run.ds)
    chosen = choose_clips(run.table, run.groups, listed, clips_per_class=clips_per_class)
    framed = in_order_of_interest(chosen, listed, clips_with_frames if source else 0)

    folder = PageFolder(out or in_run(run_url, REPORT_NAME))
    maps = Maps.of(run.statistics)
    n_shown = sum(map(len, chosen.values()))
    counter = _Counter(run.statistics.sizes["class"] + n_shown, progress)
    _write_classes(run, maps, chosen, beside, source, frozenset(framed.tolist()), folder, counter)
    folder.write("images/maps.png", maps.sheet())
    folder.write_data("findings", [_finding(one) for one in listed])
    folder.write_data("confusion", confusion(run.table))
    folder.write_data("clips", _clip_index(run, chosen))
    folder.write_data("failures", _failures(run))
    if beside is not None:
        folder.write_data("other", beside.overview(run, maps))
    folder.write_data(
        "overview",
        _overview(run, maps, found, listed, audited=audited)
        | {
            "other": other,
            "sourceNote": source_note,
            "nClips": n_shown,
            "nFrames": len(framed),
        },
    )
    folder.write("charts.js", chart_script().encode())
    folder.write_data("charts", chart_specs(run.statistics.sizes["class"]))
    for fixed in _SITE_FILES:
        folder.write(fixed, site_file(fixed).encode())
    name = run_url.rstrip("/").rsplit("/", 1)[-1]
    index = folder.write("index.html", render_shell(name=name, run_url=run_url).encode())
    folder.remove_left_over()
    return index


def _write_classes(
    run: RunTables,
    maps: Maps,
    chosen: dict[int, Chosen],
    beside: OtherRun | None,
    source: ClipSource | None,
    framed: frozenset[int],
    folder: PageFolder,
    counter: "_Counter",
) -> None:
    """Write a script of data for each class that has clips, and one for clips of no class."""
    n_classes, n_times = run.statistics.sizes["class"], run.statistics.sizes["time"]
    seconds = class_seconds(_frame_times(run), run.groups, n_classes, n_times)
    views = run.table["view"]
    for index in (*range(n_classes), -1):
        if index >= 0:
            counter.one()
        of_class = chosen.get(index, {})
        counted = index >= 0 and int(run.statistics["n_clips"][index])
        if not (of_class or counted):
            # The page asks for it.
            folder.write_data(f"class-{index}" if index >= 0 else "class-none", None)
            continue
        records = clip_records(
            run.table,
            of_class,
            run.store,
            source=source,
            with_frames=framed,
            folder=folder,
            done=counter.one,
        )
        data: dict[str, Any] = {"clips": records}
        if beside is not None and records:
            beside.add_to(records, views)
        if counted:
            data |= maps.of_class(index)
            data["profile"] = profile_of(
                run.statistics, index, seconds[index], int(run.n_videos[index])
            )
            if beside is not None:
                data["other"] = beside.of_class(index, maps, seconds[index])
        folder.write_data(f"class-{index}" if index >= 0 else "class-none", data)


def _overview(
    run: RunTables,
    maps: Maps,
    found: Sequence[Finding],
    listed: Sequence[Finding],
    *,
    audited: bool,
) -> dict[str, Any]:
    overall = overall_statistics(run.statistics)
    described = describe_scores().to_dict()
    for name in FLAGGED_SCORES:
        described[name] += FLAG_MEANS
    n_times = run.statistics.sizes["time"]
    of_class = Counter(
        finding.subject[0] for finding in found if finding.scope == "class" and finding.subject
    )
    record = run.store.record
    return {
        "run": run.url,
        "model": record.model.name,
        "method": record.method_name,
        "classSpecific": record.class_specific,
        "timesWeigh": t_says_which_frames_matter(
            None if record.taken_in else record.identity.method
        ),
        "by": run.by,
        "summary": dict(run.summary),
        "grid": [run.statistics.sizes[dim] for dim in ("time", "y", "x")],
        "classes": class_table(run.table, run.groups, run.statistics, of_class),
        "describe": {**described, **RESULTS},
        "flagged": FLAGGED_SCORES,
        "trust": trust_of(
            sample_of_run(run.url, run.ds, []), run.statistics["class"].values.astype(str).tolist()
        ),
        "reasons": REASONS,
        "legend": maps.legend(),
        "sheetColumns": SHEET_COLUMNS,
        "palette": base64.b64encode(palette()).decode("ascii"),
        "overall": picture_of(maps.overall, maps)
        | {"profile": {"mean": overall["temporal_profile"].values * n_times}},
        "audited": audited,
        "nFindings": len(found),
        "nListed": len(listed),
        "states": Counter(finding.proof.state for finding in found),
        "kinds": Counter(finding.kind for finding in found),
        "first": [_finding(finding) for finding in listed[:_FIRST_FINDINGS]],
        "provenance": {
            name: value
            for name, value in run.ds.attrs.items()
            # Names of classes, and what repeats them.
            if name not in ("class_names", "attributions", "zarr_conventions")
        },
    }


def _finding(finding: Finding) -> dict[str, Any]:
    plain = finding.to_json()
    del plain["method"], plain["class_specific"]
    return plain


def _findings_beside(run_url: str) -> tuple[bool, list[Finding]]:
    """Whether the run has been audited as it is now, and what was found."""
    try:
        return True, read_findings(run_url)
    except StoreError:
        return False, []


def _clip_source(ds: xr.Dataset) -> tuple[ClipSource | None, str | None]:
    """Source of the run's clips, or the reason why there is none."""
    try:
        return ClipSource.of_run(ds), None
    except (ManifestError, StorageError) as error:
        return None, str(error)


def _clip_index(run: RunTables, chosen: dict[int, Chosen]) -> dict[str, list[Any]]:
    """Where the page shows which clip: its row, its class and its video's id, in columns."""
    pairs = sorted((row, index) for index, of_class in chosen.items() for row in of_class)
    rows = [row for row, _ in pairs]
    videos = run.table["video_id"].loc[rows].astype(str).tolist()
    return {"row": rows, "class": [index for _, index in pairs], "video": videos}


def _failures(run: RunTables) -> list[dict[str, Any]]:
    status = run.ds["status"].values
    rows = np.flatnonzero(failed_rows(status))[:_MAX_FAILURES]
    failed = run.ds[["video_id", "message"]].isel(clip=rows).compute()
    return [
        {
            "row": row,
            "video": str(video),
            "status": Status(int(status[row])).label,
            "message": str(message),
        }
        for row, video, message in zip(
            rows.tolist(), failed["video_id"].values, failed["message"].values, strict=True
        )
    ]


def _frame_times(run: RunTables) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    if "frame_time" not in run.ds:
        return None
    rows = run.table.index.to_numpy()
    times: np.ndarray[Any, np.dtype[np.float64]] = run.ds["frame_time"].values[rows]
    return times.astype(np.float64)


class _Counter:
    """Counts what is done, and says so."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def one(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)
