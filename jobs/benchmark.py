"""Hold explanations against each other on models whose truth is known: ``--help`` says how."""

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from jobs.cli import run_job, writing
from pipeline.base_config import FrozenConfig
from pipeline.errors import ConfigError
from pipeline.run.progress_bar import progress_bar
from pipeline.synthetic.exact_scenarios import SCENARIOS, Scenario
from pipeline.synthetic.tasks import Camera, TaskName

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.evaluation.benchmark.subject import Subject
    from pipeline.evaluation.benchmark.summary import Results
    from pipeline.evaluation.metric_checks import MetricCheck
    from pipeline.models.checkpoint import Checkpoint
    from pipeline.synthetic.held_out import HeldOut

TASKS: dict[str, TaskName] = {
    "static-cue": "static_cue",
    "static-cue-vivit": "static_cue",
    "static-cue-videomae": "static_cue",
    "order": "order",
    "moment": "moment",
    "8-frames": "actions",
}
"""Task of each committed model of scenes."""
EXACT: dict[str, Scenario] = {f"exact-{scenario}": scenario for scenario in SCENARIOS}
"""Scenario of each committed model of EXACT's clips, which have no camera and no second actor."""
MODELS = (*TASKS, *EXACT)
SHOWN_BY_EACH_FRAME = ("static_cue",)
"""Tasks whose class each frame shows: a splice from another clip shows that clip's class."""
LABEL_ONLY = ("static-cue", "static-cue-vivit", "static-cue-videomae", "order", "moment")
"""Models of scenes that weren't told where the actor is."""
_COSTLY = (
    "FovEx",
    "Integrated Gradients",
    "SmoothGrad",
    "occlusion",
    "RISE",
    "LIME",
    "KernelSHAP",
)
"""Methods that are measured on fewer clips."""
_N_CHECKED = 8
"""How many clips of the model set by hand the metrics are tried on."""


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
# Random draws are seeded with multiples of a seed, which have to fit into 64 bits.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[tuple[Seed, ...], NoDecode, BeforeValidator(_split)]


class BenchmarkConfig(FrozenConfig):
    """Measure methods by metrics, over models and seeds of held-out scenes, and what each costs.

    Writes `leaderboard.md`, `leaderboard.json` and `cost.png`, quality against cost, and keeps the
    value of each clip in `values/MODEL/SEED/METHOD.parquet`. What is there isn't measured again:
    the same command goes on where it was, and one with more methods or metrics adds them.
    """

    out: str
    """Folder of the benchmark, on this machine."""
    clips: int = Field(default=12, ge=2)
    """Clips of one actor, and as many of two, of each model and seed."""
    costly_clips: int = Field(default=4, ge=2)
    """Clips that are explained by methods of 75 passes or more, of each model and seed."""
    seeds: Seeds = (101, 102)
    """Seeds of the scenes; models were trained on seed 1."""
    models: Names = LABEL_ONLY
    """Committed models, by the names of their folders."""
    methods: Names = ("all",)
    """Names in `pipeline.evaluation.methods.explainer.METHODS`; `all`, or `one-pass` for those that
    need no more than the forward pass that predicts."""
    metrics: Names = ("all",)
    """Names in `pipeline.evaluation.benchmark.metrics.METRICS`, or groups of them; `all`, or
    `decision` for those that choose the default."""
    camera: Camera = "panning"
    """How the background moves: as in training, not at all, or four times as fast."""
    textures: str | None = None
    """Folder of clips on this machine whose middle frames are backgrounds, in place of noise:
    scenes of a style that no model was trained on."""
    n_workers: int | None = Field(default=None, ge=1)
    """Processes, each with a model and one thread; by default one per CPU."""


def benchmark(config: BenchmarkConfig) -> int:
    """Measure what is missing, and write tables and pictures of everything."""
    from pipeline.evaluation.benchmark.metrics import chosen_metrics
    from pipeline.evaluation.benchmark.summary import decide
    from pipeline.evaluation.benchmark.tables import as_json, as_markdown, quality_against_cost
    from pipeline.storage.files import write_bytes

    methods, metrics = _methods(config), chosen_metrics(config.metrics)
    _check(config)
    out = Path(config.out)
    with writing("out", config.out):
        out.mkdir(parents=True, exist_ok=True)
    results = _measured(config, methods, metrics)
    checks = _checks(metrics)
    decision = decide(results)
    facts = {
        "models": ", ".join(config.models),
        "seeds of scenes": ", ".join(map(str, config.seeds)),
        **_facts_of_scenes(config),
        "clips": f"{config.clips} of one actor and as many of two, of EXACT's scenarios without "
        f"actors, for each model and seed; {config.costly_clips} for methods of many passes",
        "figures": "mean over models of the mean over clips, [95 % interval over seeds and clips]",
    }
    tables = (results, metrics, checks, decision, facts)
    files = {
        "leaderboard.md": as_markdown(*tables).encode(),
        "leaderboard.json": (json.dumps(as_json(*tables), indent=1) + "\n").encode(),
        "cost.png": quality_against_cost(results, metrics),
    }
    with writing("out", config.out):
        for name, content in files.items():
            write_bytes(str(out / name), content)
    if decision is not None:
        print(f"benchmark: by the rule, the default is {decision.winner}")
    n_cells = len(results.cells)
    print(f"benchmark: {n_cells} cells; {out / 'leaderboard.md'}, and values per clip beside it")
    return 0


def _facts_of_scenes(config: BenchmarkConfig) -> dict[str, str]:
    if all(model in EXACT for model in config.models):
        return {}
    backgrounds = "noise" if config.textures is None else "pictures of real clips"
    return {"camera": config.camera, "backgrounds": backgrounds}


def _methods(config: BenchmarkConfig) -> tuple[str, ...]:
    from pipeline.evaluation.benchmark.summary import ONE_PASS
    from pipeline.evaluation.methods.explainer import METHODS

    groups = {
        "all": tuple(METHODS),
        "one-pass": tuple(name for name, each in METHODS.items() if each.needs in ONE_PASS),
    }
    chosen: list[str] = []
    for name in config.methods:
        if name not in METHODS and name not in groups:
            raise ConfigError(f"methods: {name!r} is not one of {', '.join((*groups, *METHODS))}")
        chosen += groups.get(name, (name,))
    return tuple(name for name in METHODS if name in chosen)


def _check(config: BenchmarkConfig) -> None:
    for name in config.models:
        if name not in MODELS:
            raise ConfigError(f"models: {name!r} is not one of {', '.join(MODELS)}")
    for key, values in (("models", config.models), ("seeds", config.seeds)):
        if len(set(values)) < len(values) or not values:
            raise ConfigError(f"{key}: {values} are none, or one of them is there twice")
    exact = next((name for name in config.models if name in EXACT), None)
    for key in ("camera", "textures"):
        if exact and getattr(config, key) != BenchmarkConfig.model_fields[key].default:
            raise ConfigError(f"{key}: clips of models={exact} aren't scenes, leave it out")
    if config.textures is not None:
        _textures(config.textures)
    if config.costly_clips > config.clips:
        raise ConfigError(f"costly_clips: {config.costly_clips} is above clips={config.clips}")


def _measured(
    config: BenchmarkConfig, methods: tuple[str, ...], metrics: tuple[str, ...]
) -> "Results":
    from pipeline.evaluation.benchmark.cells import read_cell
    from pipeline.evaluation.benchmark.summary import Results

    subjects = [(model, seed) for model in config.models for seed in config.seeds]
    wanted = {
        (model, seed): tuple(
            method
            for method in methods
            if _is_missing(config, _identity(config, model, method), model, seed, method, metrics)
        )
        for model, seed in subjects
    }
    pending = [(model, seed, some) for (model, seed), some in wanted.items() if some]
    n_cells = len(subjects) * len(methods)
    n_left = sum(len(some) for *_, some in pending)
    bar = progress_bar(total=n_cells, initial=n_cells - n_left, unit="cell", desc="benchmark")
    n_workers = min(config.n_workers or os.cpu_count() or 1, len(pending))
    if n_workers > 1:
        # A forked process would inherit torch's threads.
        context = multiprocessing.get_context("spawn")
        reading, ours = context.Pipe(duplex=False)
        with (
            ProcessPoolExecutor(
                n_workers, mp_context=context, initializer=_end_with, initargs=(reading,)
            ) as pool,
            # First to be closed, so that the pool doesn't wait for work that nobody wants.
            ours,
        ):
            jobs = [pool.submit(_measure, config, *each, metrics) for each in pending]
            for job in jobs:
                bar.update(job.result())
    else:
        for model, seed, some in pending:
            for method in some:
                bar.update(_measure(config, model, seed, (method,), metrics))
    bar.close()
    cells = {
        (model, seed, method): read_cell(
            config.out, model, seed, method, _identity(config, model, method)
        )
        for model, seed in subjects
        for method in methods
    }
    return Results(cells, config.models, config.seeds, methods, config.clips)


def _end_with(connection: Connection) -> None:
    """End this process as soon as the other end is closed: by the one that started it, or its end.

    Signals are for that one, which says what they mean.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)

    def watch() -> None:
        with suppress(EOFError, OSError):
            connection.recv_bytes()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _is_missing(
    config: BenchmarkConfig,
    identity: Mapping[str, Any],
    model: str,
    seed: int,
    method: str,
    metrics: Iterable[str],
) -> bool:
    from pipeline.evaluation.benchmark.cells import read_cell

    cell = read_cell(config.out, model, seed, method, identity)
    return cell.is_to_be_measured(metrics)


_SUBJECTS: dict[tuple[str, int, int, str, str | None], "Subject"] = {}
"""The subject that this process made last, whose probes remember what they have asked."""


def _measure(
    config: BenchmarkConfig,
    model: str,
    seed: int,
    methods: tuple[str, ...],
    metrics: tuple[str, ...],
) -> int:
    """Measure some methods on a subject, and write each as soon as it is done."""
    import torch

    from pipeline.evaluation.benchmark.cells import cell_url, measure, read_cell, write_cell

    torch.set_num_threads(1)
    key = (model, seed, config.clips, config.camera, config.textures)
    if key not in _SUBJECTS:
        _SUBJECTS.clear()
        _SUBJECTS[key] = subject_of(*key)
    subject = _SUBJECTS[key]
    for method in methods:
        identity = _identity(config, model, method)
        cell = read_cell(config.out, model, seed, method, identity)
        cell = measure(cell, subject.first(identity["clips"]), metrics)
        with writing("out", config.out):
            write_cell(cell_url(config.out, model, seed, method), cell, identity)
    return len(methods)


def _identity(config: BenchmarkConfig, model: str, method: str) -> dict[str, Any]:
    """Say what the values of a cell depend on."""
    return {
        "weights": _checkpoint(model).weights_digest,
        "clips": config.costly_clips if method in _COSTLY else config.clips,
        "camera": config.camera,
        **({} if config.textures is None else {"textures": _textures(config.textures)}),
    }


@lru_cache(maxsize=1)
def _textures(folder: str) -> list[str]:
    """Files of the backgrounds: name and size."""
    from pipeline.synthetic.textures import find_textures

    files = [Path(path) for path in find_textures(folder)]
    return [f"{path.name} {path.stat().st_size}" for path in files]


_CHECKPOINTS: dict[str, "Checkpoint"] = {}


def _checkpoint(model: str) -> "Checkpoint":
    import pipeline.synthetic
    from pipeline.models.checkpoint import read_checkpoint

    if model not in _CHECKPOINTS:
        folder = Path(str(pipeline.synthetic.__file__)).parent / "checkpoints" / model
        _CHECKPOINTS[model] = read_checkpoint(str(folder))
    return _CHECKPOINTS[model]


def subject_of(
    model: str,
    seed: int,
    n_clips: int,
    camera: Camera = "panning",
    textures: str | None = None,
) -> "Subject":
    """Load a committed model, and render its clips."""
    import numpy as np
    import torch

    from pipeline.evaluation.benchmark.subject import Scenes, Splices, Subject
    from pipeline.evaluation.perturbation import Probe
    from pipeline.models.attributor import normalise
    from pipeline.models.checkpoint import load_adapter
    from pipeline.synthetic.held_out import exact_held_out, held_out_clips
    from pipeline.synthetic.splices import splice
    from pipeline.synthetic.textures import find_textures

    checkpoint = _checkpoint(model)
    adapter = load_adapter(checkpoint, device="cpu")

    def seen(frames: "NDArray[np.uint8]") -> torch.Tensor:
        return normalise(torch.from_numpy(frames), checkpoint.preprocessing, torch.float32)

    black = tuple(seen(np.zeros((1, 1, 1, 1, 3), np.uint8)).flatten().tolist())

    def rendered(n_actors: int) -> "HeldOut":
        return held_out_clips(
            TASKS[model],
            n_clips=n_clips,
            n_frames=adapter.grid.n_frames,
            n_times=adapter.grid.n_times,
            seed=seed,
            n_actors=n_actors,
            textures=() if textures is None else find_textures(textures),
            camera=camera,
        )

    def scenes(clips: "HeldOut") -> Scenes:
        pixels = seen(clips.frames)
        probe = Probe(adapter, pixels)
        truth = (clips.labels, clips.covered, clips.rivals, clips.rival_covered)
        return Scenes(pixels, *truth, probe, seed, black)

    if model in EXACT:
        drawn = exact_held_out(EXACT[model], n_clips=n_clips, seed=seed)
        return Subject(model, adapter, scenes(drawn), None, seed)
    single = scenes(rendered(1))
    splices = None
    if TASKS[model] in SHOWN_BY_EACH_FRAME:
        n_times = adapter.grid.n_times
        steps = single.pixel_values.reshape(n_clips, n_times, -1).numpy()
        spliced = splice(steps, single.labels, max(1, n_times // 4), seed)
        splices = Splices(
            torch.from_numpy(spliced.frames).reshape(single.pixel_values.shape),
            single.labels[spliced.donors],
            spliced.planted,
        )
    return Subject(model, adapter, single, scenes(rendered(2)), seed, spliced=splices)


def _checks(metrics: tuple[str, ...]) -> Mapping[str, "MetricCheck"]:
    """Try the metrics on the model that was set by hand."""
    import numpy as np

    from pipeline.evaluation.benchmark.metrics import flags
    from pipeline.evaluation.benchmark.subject import Scenes
    from pipeline.evaluation.perturbation import Probe
    from pipeline.models.timesformer import Timesformer
    from pipeline.synthetic.hand_set_model import contributions, hand_set_clips, hand_set_model

    adapter = Timesformer(hand_set_model())
    clips = hand_set_clips(_N_CHECKED, 0)
    of_classes, rows = contributions(clips.pixel_values), np.arange(_N_CHECKED)
    of_label, of_rival = (of_classes[rows, each] for each in (clips.labels, clips.runners_up))
    grid = (_N_CHECKED, adapter.grid.n_times, adapter.grid.height, adapter.grid.width)
    covered, rival_covered = (
        (each > 0).astype(np.float32).reshape(grid) for each in (of_label, of_rival)
    )
    probe = Probe(adapter, clips.pixel_values, batch_size=64)
    scenes = Scenes(
        clips.pixel_values, clips.labels, covered, clips.runners_up, rival_covered, probe
    )
    return flags(metrics, scenes, of_label, of_rival)


if __name__ == "__main__":
    sys.exit(run_job(BenchmarkConfig, benchmark, verb="benchmark", keeps=True))
