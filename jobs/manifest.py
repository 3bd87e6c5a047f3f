"""List the clips of a dataset in a manifest: ``python -m jobs.manifest --help``."""

import sys

from jobs.cli import run_job, writing
from pipeline.config import FrozenConfig
from pipeline.layouts import build_manifest
from pipeline.manifest import write_manifest


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


def manifest(config: ManifestConfig) -> int:
    """Build the manifest and write it."""
    table = build_manifest(
        layout=config.layout,
        clips=config.clips,
        annotations=config.annotations,
        split=config.split,
    )
    with writing("out", config.out):
        write_manifest(table, config.out)
    labels = table["label"].drop_null().unique()
    print(f"manifest: {table.num_rows} clips, {len(labels)} labels in {config.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(ManifestConfig, manifest, verb="manifest"))
