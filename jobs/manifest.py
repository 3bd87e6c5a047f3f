"""List the clips of a dataset in a manifest: ``python -m jobs.manifest --help``."""

import sys

from jobs.cli import run_job, writing
from pipeline.base_config import FrozenConfig


class ManifestConfig(FrozenConfig):
    """List the clips of a dataset, in a fixed order, in one Parquet manifest."""

    layout: str
    """kinetics (annotation CSV and files), folders (one per class), list (a file of `path label`
    lines) or files (a folder or glob, without labels)."""
    clips: str
    """Folder of the clips, or a glob; any fsspec URL."""
    out: str
    """Parquet file to write; any fsspec URL."""
    annotations: str | None = None
    """Annotation CSV of `kinetics`, list file of `list`."""
    split: str | None = None
    """Take the rows of this split alone; for `kinetics`."""
    append_to: str | None = None
    """Earlier manifest of the same clips, whose rows come first, as they are; clips that it doesn't
    have follow, for `jobs.attribute --append`. May be the file that is written."""


def manifest(config: ManifestConfig) -> int:
    """Build the manifest, behind the rows of an earlier one if there is one, and write it."""
    from pipeline.dataset.layouts import append_clips, build_manifest
    from pipeline.dataset.manifest import read_manifest, write_manifest

    old = None if config.append_to is None else read_manifest(config.append_to)
    table = build_manifest(
        layout=config.layout,
        clips=config.clips,
        annotations=config.annotations,
        split=config.split,
    )
    added = ""
    if old is not None:
        table = append_clips(old, table)
        added = f", {table.num_rows - old.n_rows} of them new"
    # With nothing to add, a file that a run may be reading is left alone.
    if old is None or table.num_rows > old.n_rows or config.out != old.url:
        with writing("out", config.out):
            write_manifest(table, config.out)
    labels = table["label"].drop_null().unique()
    print(f"manifest: {table.num_rows} clips{added}, {len(labels)} labels in {config.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(ManifestConfig, manifest, verb="manifest"))
