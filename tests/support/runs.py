"""Small runs for tests: clips, a manifest and a model on disk, and the expected results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.attribute import Place, attribute
from jobs.cli import run_job
from pipeline.clips.loader import ClipLoader
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import write_manifest
from pipeline.models.attributor import Attributor
from pipeline.run.config import AttributeConfig, AttributeJob, OneCall
from pipeline.run.plan import Plan, plan_run
from pipeline.run.prepare import prepare
from pipeline.run.resources import Machine
from pipeline.store.lease import Lease
from pipeline.store.opening import open_store
from pipeline.store.pending import pending_rows, read_status
from pipeline.store.run_folder import store_url
from pipeline.store.state import RunSummary
from tests.support.checkpoints import CLASS_NAMES, save_timesformer
from tests.support.clips import write_mp4

Columns = dict[str, NDArray[Any]]


def unlink(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_text(path: Path) -> None:
    path.write_text("not a video\n")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def shorten(path: Path) -> None:
    write_mp4(path, random_frames(2, seed=0))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": unlink,
    "empty": empty,
    "unreadable": replace_by_text,
    "truncated": cut_off,
    "too_short": shorten,
}
"""What is done to a clip, by the name of the status that it must get."""


@dataclass(frozen=True)
class Inputs:
    """A manifest of clips and a model, on disk."""

    manifest: str
    model: str
    video_ids: tuple[str, ...]
    """In the manifest's order."""
    labels: tuple[int, ...]
    """Class of each row; -1 in rows without a label."""

    def config(self, out: Path, **changes: Any) -> AttributeConfig:
        given = {"manifest": self.manifest, "model": self.model, "out": str(out)}
        sizes = {"batch_size": 2, "rows_per_shard": 4, "n_models": 1}
        return AttributeConfig.model_validate(given | sizes | changes)

    def flags(self, out: Path, *more: str) -> list[str]:
        """Command line of `jobs.attribute`; flags in ``more`` override others."""
        flags = {"manifest": self.manifest, "model": self.model, "out": str(out)}
        sizes = {"batch-size": "2", "rows-per-shard": "4", "n-models": "1"}
        own = [f"--{name}={value}" for name, value in (flags | sizes).items()]
        return given_once([*own, *more])


def given_once(argv: Sequence[str]) -> list[str]:
    """Leave out flags, with their values behind `=`, that are given again further on."""
    names = [flag.partition("=")[0] for flag in argv]
    return [
        flag
        for place, flag in enumerate(argv)
        if not flag.startswith("--") or names[place] not in names[place + 1 :]
    ]


def prepared(config: AttributeConfig, **call: Any) -> Plan:
    """Plan a run and prepare its store; ``call`` is what this call does to an existing run."""
    plan = plan_run(config, OneCall(**call))
    prepare(plan)
    return plan


def random_frames(n_frames: int, *, seed: int) -> NDArray[np.uint8]:
    """Frames of coloured squares, different for each seed, so that mixed-up rows show."""
    squares = np.random.default_rng(seed).integers(0, 256, (n_frames, 4, 4, 3), np.uint8)
    return squares.repeat(16, axis=1).repeat(20, axis=2)


def write_inputs(
    folder: Path,
    n_clips: int,
    damages: Mapping[int, str] | None = None,
    n_frames: Mapping[int, int] | None = None,
) -> Inputs:
    """Write clips, their manifest, and a model of 3 frames.

    The manifest's order differs from that of the file names, and every third row has no label.

    Parameters
    ----------
    damages
        Rows whose clips are damaged after the manifest is written, with the status to expect.
    n_frames
        Number of frames in some rows' clips; others have about ten.
    """
    clips = folder / "clips"
    clips.mkdir(parents=True)
    names = [f"{row * 7 % n_clips:03d}-{row}.mp4" for row in range(n_clips)]
    labels = [-1 if row % 3 == 2 else row % len(CLASS_NAMES) for row in range(n_clips)]
    for row, name in enumerate(names):
        length = (n_frames or {}).get(row, 8 + row % 5)
        write_mp4(clips / name, random_frames(length, seed=row))
    lines = [
        f"{name}\t{CLASS_NAMES[label]}" if label >= 0 else name
        for name, label in zip(names, labels, strict=True)
    ]
    listing = folder / "clips.txt"
    listing.write_text("\n".join(lines))
    manifest = str(folder / "clips.parquet")
    write_manifest(
        build_manifest(layout="list", clips=str(clips), annotations=str(listing)), manifest
    )
    for row, status in (damages or {}).items():
        DAMAGES[status](clips / names[row])
    model = save_timesformer(folder / "model")
    return Inputs(manifest, str(model), tuple(Path(name).stem for name in names), tuple(labels))


def run_attribute(
    argv: Sequence[str],
    execute: Callable[[Plan, Lease], RunSummary] | None = None,
    machine: Machine | None = None,
) -> int:
    """Run `jobs.attribute` in this process, optionally with another way to carry out its plans."""
    place_of = None if execute is None else (lambda job: Place(lambda config: machine, execute))
    job = partial(attribute, place_of=place_of)
    return run_job(AttributeJob, job, verb="attribute", keeps=True, argv=argv)


def plain_columns(plan: Plan) -> Columns:
    """Compute every column of a run in a loop over its batches, without Ray or a store."""
    loader = ClipLoader(
        root=plan.manifest.root,
        views=plan.views,
        input_size=plan.checkpoint.geometry.input_size,
        class_of_label=plan.class_of_label,
    )
    attributor = Attributor(
        plan.checkpoint,
        plan.config.method,
        plan.layout,
        device="cpu",
        precision="float32",
        n_threads=1,
    )
    batches = []
    for start in range(0, plan.layout.n_rows, plan.sizes.batch_size):
        numbers = np.arange(start, min(start + plan.sizes.batch_size, plan.layout.n_rows))
        table = plan.manifest.take(plan.views.video(numbers))
        rows = {name: table[name].to_numpy() for name in table.column_names}
        batches.append(attributor(loader(rows | {"row": numbers})))
    return {
        name: np.concatenate([batch[name] for batch in batches])
        for name in batches[0]
        if name != "row"
    }


def stored_columns(out: Path) -> Columns:
    """Every array of a run's store."""
    store = open_store(store_url(str(out)))
    return {name: store.array(name)[:] for name in store.group.array_keys()}


def assert_same_columns(got: Columns, expected: Columns) -> None:
    """Compare columns bit for bit, with their types; NaN equals NaN."""
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        if got[name].dtype.kind in "OT":
            assert got[name].tolist() == values.tolist(), name
        else:
            assert got[name].dtype == values.dtype, name
            np.testing.assert_array_equal(got[name], values, err_msg=name)


def objects(out: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of writing of every object in a run's store, except metadata."""
    store = out / "attributions.zarr"
    return {
        path.relative_to(store).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != "zarr.json"
    }


def tree(folder: Path) -> dict[Path, bytes]:
    """Content of every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pending_shards(out: Path) -> list[int]:
    """Shards of a run that have a pending row."""
    shards: list[int] = pending_rows(open_store(store_url(str(out)))).shards.tolist()
    return shards


def n_done(out: Path) -> int:
    """Rows of a run that are accounted for."""
    return int((read_status(open_store(store_url(str(out)))) != 0).sum())
