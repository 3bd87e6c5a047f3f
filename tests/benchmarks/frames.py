"""What a clip's frames cost once they are cached, or shared: ``python -m tests.benchmarks.frames``.

Milliseconds a clip, as a run's loader has it: fetching, decoding, resizing and cropping, with the
decoder's child counted in. Of each clip 8 frames of 224 x 224 are taken, evenly.

- *without*: no cache; *filling*: into an empty one; *cached*: from the cache.
- *models*: frames of three models, as TimeSformer-B, VideoMAE-B and ViViT-B take them; each by
  itself, and all in one pass over the file with the other two read from the cache.
- *views*: 5 x 3 views of 16 frames, one pass, over one view after the other.

Things take turns, the best of some counts; frames are compared and have to be equal. CPU time is of
this process and its child; the time that the storage takes to write is in the wall's alone.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.clips.frames_cache import FramesCache
from pipeline.clips.frames_folder import FramesIdentity, open_parts
from pipeline.clips.loader import ClipLoader
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.shared_decode import SharedReader
from pipeline.clips.views import View, Views, ViewsConfig
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import Manifest, read_manifest, write_manifest
from pipeline.status import Status

SIZE = (224, 224)
PIXELS = Preprocessing(shortest_edge=224, crop=SIZE)
BATCH = 8


def one(sampling: Sampling) -> Views:
    """One view, of the middle."""
    return Views((View(sampling, PIXELS),))


UNIFORM = one(Sampling("uniform", 8))
MODELS = {
    "timesformer": one(Sampling("strided", 8, stride=32)),
    "videomae": one(Sampling("strided", 16, stride=4)),
    "vivit": one(Sampling("strided", 32, stride=2)),
}
ALL_VIEWS = Views.of_config(
    ViewsConfig(clips=5, crops=3), Sampling("strided", 16, stride=4), PIXELS
)


def _cpu_s() -> float:
    """CPU time of this process, and of its children as far as Linux tells."""
    total = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return total


def timed(step: Callable[[], list[dict]], n_clips: int) -> tuple[float, float, list[dict]]:
    """CPU and wall milliseconds a clip of a step, and what it gives."""
    cpu_s, wall_s = _cpu_s(), time.perf_counter()
    given = step()
    wall_s, cpu_s = time.perf_counter() - wall_s, _cpu_s() - cpu_s
    return cpu_s / n_clips * 1000, wall_s / n_clips * 1000, given


class Bench:
    """Loads the clips of a manifest, all of them at each step."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self.manifest, self.folder = manifest, folder
        self.n_clips = manifest.n_rows

    def load(self, views: Views, **more: Any) -> list[dict]:
        """Columns of every batch."""
        loader = ClipLoader(self.manifest.root, views, SIZE, {}, **more)
        n_rows = views.n_rows(self.n_clips)
        batches = []
        for start in range(0, n_rows, len(views) * BATCH):
            numbers = np.arange(start, min(start + len(views) * BATCH, n_rows))
            table = self.manifest.take(views.video(numbers))
            rows = {name: table[name].to_numpy() for name in table.column_names}
            batches.append(loader(rows | {"row": numbers}))
        return batches

    def parts(self, *runs: Views) -> list[FramesCache]:
        """Parts of an empty cache."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        identities = [FramesIdentity.of_run(views, SIZE, "pyav", False) for views in runs]
        opened = open_parts(
            str(self.folder / "cache"),
            identities,
            self.manifest,
            n_views=len(runs[0]),
            batch_size=BATCH,
            max_bytes=10**11,
        )
        return [opened[identity] for identity in identities]


def same(ones: list[dict], others: list[dict]) -> bool:
    """Whether all columns are equal to the bit."""
    return all(
        one[name].tobytes() == other[name].tobytes()
        if one[name].dtype != object
        else one[name].tolist() == other[name].tolist()
        for one, other in zip(ones, others, strict=True)
        for name in one
    )


def cache_figures(bench: Bench, turns: int) -> dict:
    """Without a cache, filling it, and from it."""
    best: dict[str, list[float]] = {}
    for _ in range(turns):
        (cache,) = bench.parts(UNIFORM)
        steps = {"without": None, "filling": cache, "cached": cache}
        given = {}
        for name, used in steps.items():
            load = partial(bench.load, UNIFORM, cache=used)
            cpu, wall, given[name] = timed(load, bench.n_clips)
            before = best.get(name, [cpu, wall])
            best[name] = [min(before[0], cpu), min(before[1], wall)]
        assert same(given["without"], given["filling"])
        assert same(given["without"], given["cached"])
    return {name: {"cpu_ms": cpu, "wall_ms": wall} for name, (cpu, wall) in best.items()}


def models_figures(bench: Bench, turns: int) -> dict:
    """Three models, one after the other, without and with one pass over each file."""
    best = {"each by itself": float("inf"), "one pass": float("inf")}

    def by_itself() -> list[dict]:
        return [batch for views in MODELS.values() for batch in bench.load(views)]

    for _ in range(turns):
        parts = bench.parts(*MODELS.values())
        first, *later = zip(MODELS.values(), parts, strict=True)
        alone_ms, _, alone = timed(by_itself, bench.n_clips)
        shared_ms, _, together = timed(partial(in_one_pass, bench, first, later), bench.n_clips)
        assert same(alone, together)
        best["each by itself"] = min(best["each by itself"], alone_ms)
        best["one pass"] = min(best["one pass"], shared_ms)
    return {name: {"cpu_ms": ms} for name, ms in best.items()}


def in_one_pass(
    bench: Bench,
    first: tuple[Views, FramesCache],
    later: list[tuple[Views, FramesCache]],
) -> list[dict]:
    """Load what all models take, the first with what the others find in the cache."""
    shared = tuple(SharedReader(views, SIZE, part) for views, part in later)
    given = bench.load(first[0], shared=shared)
    for views, part in later:
        given += bench.load(views, cache=part)
    return given


def views_figures(bench: Bench, turns: int) -> dict:
    """15 views of each file: in one pass, and a pass for each."""
    best = {"each by itself": float("inf"), "one pass": float("inf")}

    def one_by_one() -> list[dict]:
        return [batch for view in ALL_VIEWS for batch in bench.load(Views((view,)))]

    for _ in range(turns):
        together_ms, _, _ = timed(partial(bench.load, ALL_VIEWS), bench.n_clips)
        alone_ms, _, _ = timed(one_by_one, bench.n_clips)
        best["each by itself"] = min(best["each by itself"], alone_ms)
        best["one pass"] = min(best["one pass"], together_ms)
    return {name: {"cpu_ms": ms} for name, ms in best.items()}


def main() -> None:
    """Measure over a folder of clips, of which those that aren't ok are left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="folder")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--what", nargs="*", default=["cache", "models", "views"])
    arguments = parser.parse_args()
    measures = {"cache": cache_figures, "models": models_figures, "views": views_figures}
    with tempfile.TemporaryDirectory(prefix="frames-") as name:
        folder = Path(name)
        table = build_manifest(layout="files", clips=str(arguments.clips.resolve()))
        write_manifest(table, str(folder / "all.parquet"))
        every = Bench(read_manifest(str(folder / "all.parquet")), folder)
        longest = every.load(MODELS["vivit"])
        ok = np.concatenate([batch["status"] for batch in longest]) == Status.OK
        write_manifest(table.filter(ok), str(folder / "ok.parquet"))
        bench = Bench(read_manifest(str(folder / "ok.parquet")), folder)
        print(f"{bench.n_clips} clips, load {os.getloadavg()[0]:.1f}")
        for what in arguments.what:
            print(what, json.dumps(measures[what](bench, arguments.turns), indent=1), flush=True)


if __name__ == "__main__":
    main()
