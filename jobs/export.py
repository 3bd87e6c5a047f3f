"""Hand a run's findings, scores or clips to other tools: ``python -m jobs.export --help``."""

import sys
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator
from pydantic_settings import CliPositionalArg

from jobs.cli import run_job, writing
from pipeline.base_config import FrozenConfig
from pipeline.errors import ConfigError

What = Literal["findings", "scores", "clips", "fiftyone"]
Format = Literal["parquet", "csv", "json", "npz", "zarr"]

_FORMATS: dict[What, tuple[Format, ...]] = {
    "findings": ("parquet", "csv", "json"),
    "scores": ("parquet", "csv", "json"),
    "clips": ("npz", "zarr"),
    "fiftyone": (),
}
"""Formats of what can be exported; a description for FiftyOne has its own alone."""


def _numbers(value: Any) -> Any:
    """Accept ``0,5,10:20`` for rows, as the command line gives them."""
    given = value if isinstance(value, list | tuple) else [value]
    rows: list[int] = []
    for part in (part.strip() for item in given for part in str(item).split(",")):
        start, colon, stop = part.partition(":")
        if not start.isdecimal() or bool(colon) != stop.isdecimal():
            raise ValueError(f"{part!r}: expected rows such as 0,5,10:20")
        if colon and int(start) >= int(stop):
            raise ValueError(f"{part!r} holds no rows: expected start < stop")
        rows += range(int(start), int(stop)) if colon else [int(start)]
    return tuple(rows)


class ExportConfig(FrozenConfig):
    """Write a run's findings, scores or clips for other tools; the run stays as it is.

    Findings are those that jobs.audit has kept, scores those that jobs.aggregate has.
    """

    run: CliPositionalArg[str]
    """Folder of the run, any fsspec URL."""
    what: What = "scores"
    """`findings` and `scores` are tables; `clips` are arrays of chosen clips with their
    attributions; `fiftyone` is a folder that FiftyOne imports, with a heatmap for each frame."""
    out: str
    """File to write, or folder of a Zarr store or of what FiftyOne imports; any fsspec URL."""
    format: Format | None = None
    """`parquet`, `csv` or `json` for tables, `npz` or `zarr` for clips; by default what the end of
    `out` says. A text in CSV that a spreadsheet would take for a formula gets an apostrophe."""
    where: str | None = None
    """Only what this holds for, a condition on the columns of the table of findings or scores:
    `kind == 'logo'`, `label == 'archery' and entropy > 0.9`."""
    rows: Annotated[tuple[int, ...], BeforeValidator(_numbers)] = ()
    """Only these rows of the run: `0,5,10:20`."""
    heatmaps: Literal["every-frame", "seen-frames"] = "every-frame"
    """For FiftyOne: a heatmap for every frame between the first and the last that the model saw,
    each that of the nearest one, or only for those that it saw."""
    overwrite: bool = False
    """Replace the file that is there. A folder is never replaced."""

    @model_validator(mode="after")
    def _fits(self) -> "ExportConfig":
        formats = _FORMATS[self.what]
        if self.rows and self.what == "findings":
            raise ValueError("rows: findings have none; expected --where for a choice of them")
        if self.format is not None and self.format not in formats:
            expected = " or ".join(formats) or "no --format"
            raise ValueError(f"format: {self.format} with what={self.what}: expected {expected}")
        if formats and self.form is None:
            raise ValueError(
                f"format: the end of out={self.out} says none of {', '.join(formats)}: expected "
                "--format"
            )
        return self

    @property
    def form(self) -> Format | None:
        """Format that was given, or that ``out`` ends with."""
        ending = self.out.rstrip("/").rpartition(".")[2].lower()
        by_name: dict[str, Format] = {form: form for form in _FORMATS[self.what]}
        return self.format or by_name.get(ending)


def export(config: ExportConfig) -> int:
    """Write what is asked for, and say what it is."""
    from pipeline.store.opening import open_store
    from pipeline.store.run_folder import store_url

    open_store(store_url(config.run))
    _check_free(config)
    writes = {"findings": _table, "scores": _table, "clips": _clips, "fiftyone": _fiftyone}
    print(f"export: {writes[config.what](config)} in {config.out}")
    return 0


def _table(config: ExportConfig) -> str:
    from analysis.export.tables import encode, findings_table, scores_table
    from pipeline.storage.files import write_bytes

    if config.what == "findings":
        table = findings_table(config.run, where=config.where)
    else:
        table = scores_table(config.run, where=config.where, rows=config.rows)
    form = config.form
    assert form in ("parquet", "csv", "json")
    with writing("out", config.out):
        write_bytes(config.out, encode(table, form))
    return f"{len(table)} {config.what if config.what == 'findings' else 'rows of scores'}"


def _clips(config: ExportConfig) -> str:
    from analysis.export.clips import as_npz, selected_clips, write_zarr
    from pipeline.storage.files import write_bytes

    ds, left_out = selected_clips(config.run, where=config.where, rows=config.rows)
    with writing("out", config.out):
        if config.form == "zarr":
            write_zarr(ds, config.out)
        else:
            write_bytes(config.out, as_npz(ds))
    return f"{ds.sizes['clip']} clips{_without(left_out)}"


def _fiftyone(config: ExportConfig) -> str:
    from analysis.export.fiftyone import write_fiftyone
    from pipeline.run.progress_bar import counted_bar

    with writing("out", config.out), counted_bar(unit="clips", desc="export") as show:
        written = write_fiftyone(
            config.run,
            config.out,
            where=config.where,
            rows=config.rows,
            heatmaps=config.heatmaps,
            progress=show,
        )
    if n := written.n_without_heatmaps:
        print(
            f"export: warning: {n} clips can't be read any more, and have no heatmaps",
            file=sys.stderr,
        )
    return f"{written.n_clips} clips for FiftyOne{_without(written.n_without_attribution)}"


def _without(n: int) -> str:
    return f" ({n} without an attribution are left out)" if n else ""


def _check_free(config: ExportConfig) -> None:
    """Refuse to write over what is there, unless that was asked for."""
    from pipeline.storage.files import open_filesystem
    from pipeline.storage.retries import with_retries

    with writing("out", config.out):
        filesystem, path = open_filesystem(config.out)
        there = with_retries(config.out, lambda: filesystem.exists(path))
        folder = there and with_retries(config.out, lambda: filesystem.isdir(path))
    to_folder = config.what == "fiftyone" or config.form == "zarr"
    if folder and (not to_folder or with_retries(path, lambda: filesystem.ls(path, detail=False))):
        raise ConfigError(
            f"out: {config.out} is a folder with something in it: choose another name"
        )
    if there and not folder and (to_folder or not config.overwrite):
        hint = "" if to_folder else ", or give --overwrite"
        raise ConfigError(f"out: {config.out} is there already: choose another name{hint}")


if __name__ == "__main__":
    sys.exit(run_job(ExportConfig, export, verb="export"))
