"""Make ground truth for a run from annotation files: ``python -m jobs.ground_truth --help``."""

import sys
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg

from jobs.cli import run_job
from pipeline.base_config import FrozenConfig
from pipeline.errors import ConfigError
from pipeline.store.run_folder import store_url

if TYPE_CHECKING:
    from pipeline.evaluation.ground_truth import Found


class GroundTruthConfig(FrozenConfig):
    """Bring annotations of a run's clips onto the grid of its model, for `jobs.evaluate`."""

    run: CliPositionalArg[str]
    """Folder of the run, any fsspec URL."""
    layout: Literal["ava-kinetics", "activitynet", "something-else", "jhmdb", "masks"]
    """Format of the annotations: boxes of persons at single times (CSV), segments in time (JSON),
    boxes of hands and objects (JSON), puppet masks (a folder of .mat), or masks of each frame (a
    folder of VIDEO/*.png or VIDEO.npy)."""
    annotations: str
    """The file, or the folder of masks, any fsspec URL."""
    out: str
    """The `ground_truth.zarr` to write, any fsspec URL."""
    manifest: str | None = None
    """Manifest of the run, where it isn't any more where the run was told it is."""
    kind: str | None = Field(default=None, min_length=1)
    """What `masks` are of: person, hand, object (the default) or another word."""
    tolerance_s: float = Field(default=0.25, ge=0, allow_inf_nan=False)
    """How far a frame may be from a time that `ava-kinetics` annotates, s."""

    @model_validator(mode="after")
    def _kind_goes_with_masks(self) -> "GroundTruthConfig":
        if self.kind is not None and self.layout != "masks":
            raise ValueError(f"kind: {self.kind!r} with layout={self.layout}, which says it itself")
        return self


def ground_truth(config: GroundTruthConfig) -> int:
    """Write the truth of every clip that has annotations, and say how much is known."""
    from pipeline.dataset.manifest import read_manifest
    from pipeline.evaluation.annotations import LAYOUTS
    from pipeline.evaluation.ground_truth import build_ground_truth
    from pipeline.store.opening import open_store

    store = open_store(store_url(config.run))
    manifest = read_manifest(config.manifest or str(store.record.config["manifest"]))
    annotations = LAYOUTS[config.layout](
        config.annotations, kind=config.kind, tolerance_s=config.tolerance_s
    )
    found = build_ground_truth(store, manifest, annotations, config.out)
    for reason in found.unread[:3]:
        print(f"ground_truth: can't read {reason}", file=sys.stderr)
    if not found.n_annotated:
        raise _nothing_found(config, found)
    n_times = store.layout.n_times
    known = ", ".join(
        f"{kind} known in {count} of {found.n_annotated * n_times} time steps"
        for kind, count in found.n_known.items()
    )
    unread = f", {len(found.unread)} can't be read" if found.unread else ""
    print(
        f"ground_truth: {found.n_annotated} of {found.n_clips} clips are annotated{unread}; "
        f"{known}; {config.out}"
    )
    return 0


def _nothing_found(config: GroundTruthConfig, found: "Found") -> ConfigError:
    """Say why no clip has a truth: nothing was written then."""
    if not found.n_clips:
        return ConfigError(f"run: {config.run} has no clip that is ok, so none can have a truth")
    if len(found.unread) == found.n_clips:
        return ConfigError(
            f"none of the run's {found.n_clips} clips can be read again, which their frames' times "
            "and sizes are taken from"
        )
    return ConfigError(
        f"annotations: {config.annotations} has none of the run's {found.n_clips} clips, for "
        f"example {found.example!r}"
    )


if __name__ == "__main__":
    sys.exit(run_job(GroundTruthConfig, ground_truth, verb="ground_truth"))
