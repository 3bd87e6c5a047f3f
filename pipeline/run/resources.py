"""How many models run at once, and how many clips a task takes, on a machine of a given size."""

import math
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.models.compiler import check_compiler
from pipeline.run.config import AttributeConfig

FRAMES_SHARE = 0.25
"""Share of the object store that frames in flight may take."""

TASK_BYTES = 32_000_000
"""Frames of one task, if they fit: so many that what Ray does for a task is small beside them."""

MIN_TASKS = 3
"""Frames of so many tasks are held at the least: one is decoded, one waits, one is explained."""

TASK_CLIPS = 32
"""Clips of one task at the most: a few seconds of decoding, which is what is done again, or waited
for at the end, at the worst."""

MODEL_CPUS = 0.05
"""What a model takes of Ray's account of CPUs. What it takes of the machine's the operating system
decides: decoding has what the models leave, and where the models are slower it stands back, as it
is bounded by the frames in flight. So nobody's CPU is idle while another has too much to do."""

DECODE_CPUS = 1 - MODEL_CPUS
"""The same of a task that decodes: a CPU has room for one, and for a model."""

BATCH_SIZE = {"cpu": 8, "cuda": 32}
"""Clips in one forward pass, where nothing else is asked for."""
DIFFERENTIATED_BATCH_SIZE = {"cpu": 2, "cuda": 8}
"""The same where that pass is gone back through, for which every layer's activations are kept:
about a gigabyte a clip of a base model on a CPU."""
ROWS_PER_SHARD = 256
MAX_ROWS_PER_SHARD = 4096
SHARD_S = 600.0
"""Work of a run that a shard is at the most: as much is lost where a run is stopped."""

_MIN_WRITERS = 4


def n_writers(n_models: int) -> int:
    """Shards that are written at once at the most, beside so many models."""
    return max(_MIN_WRITERS, n_models)


@dataclass(frozen=True)
class Sizes:
    """How the rows of a run are cut; part of what the run is."""

    batch_size: int
    """Clips in one forward pass."""
    rows_per_shard: int
    """A multiple of it."""
    n_views: int = 1
    """Rows of a video, which lie side by side."""

    @property
    def unit(self) -> int:
        """Rows that are whole batches and whole videos.

        Where what is loaded together begins and ends so, a file is read once for all its views.
        """
        return math.lcm(self.batch_size, self.n_views)


def chosen_sizes(
    config: AttributeConfig,
    *,
    n_rows: int,
    n_views: int,
    row_bytes: int,
    device: str,
    clips_per_s: float,
    store_bytes: int | None,
) -> Sizes:
    """Choose the sizes of a new run that its configuration leaves open.

    A batch is 8 clips, or 32 on a GPU, and a fourth of that where the pass that predicts is gone
    back through. A shard is 256 rows of up to 100,000, and 4,096 of 1,600,000 or more: a store has
    some hundred objects of each array. It is less where that is more than about ten minutes of
    work, or more than fits behind the models; and a multiple of a video's views, if it may be.

    Parameters
    ----------
    row_bytes
        Size of what is stored of a clip.
    device
        Where the models run, ``cpu`` or ``cuda``.
    clips_per_s
        What the run is guessed to do, see `guessed_rate`.
    store_bytes
        Of Ray's object store; None where that isn't known.
    """
    default = (DIFFERENTIATED_BATCH_SIZE if config.method.goes_back else BATCH_SIZE)[device]
    batch_size = config.batch_size or _fitting_batch(config.rows_per_shard, n_views, default)
    if config.rows_per_shard:
        return Sizes(batch_size, config.rows_per_shard, n_views)
    wanted = min(MAX_ROWS_PER_SHARD, max(ROWS_PER_SHARD, n_rows * ROWS_PER_SHARD // 100_000))
    wanted = min(wanted, max(ROWS_PER_SHARD, int(SHARD_S * clips_per_s)))
    if store_bytes is not None:
        n_shards = n_writers(max(1, config.n_models or 1)) + 1
        wanted = min(wanted, int(store_bytes * FRAMES_SHARE) // (n_shards * max(1, row_bytes)))
    unit = math.lcm(batch_size, n_views)
    unit = unit if unit <= max(wanted, ROWS_PER_SHARD) else batch_size
    # Powers of two of a unit, so that a little more data doesn't give a size of its own.
    rows_per_shard = unit * 2 ** max(0, (max(1, wanted // unit)).bit_length() - 1)
    return Sizes(batch_size, rows_per_shard, n_views)


def _fitting_batch(rows_per_shard: int | None, n_views: int, default: int) -> int:
    """Give the default, or the largest size below it that parts the shards that were asked for.

    For several views of a video, a size of half as many or more that goes well with their number.
    """
    if rows_per_shard:
        return max(size for size in range(1, default + 1) if rows_per_shard % size == 0)
    sizes = range(default, (default - 1) // 2, -1)
    return min(sizes, key=lambda size: max(default, math.lcm(size, n_views)))


def guessed_rate(*, weights_bytes: int, n_tokens: int, cpus: float, gpus: int) -> float:
    """Guess the clips/s of a run within a factor of some, before anything was measured.

    A core decodes about ten clips a second, and a model does two operations for each parameter and
    token, on a core at about 60 GFLOP/s; one that runs on a GPU waits for decoding.
    """
    decoding = 10.0 * cpus
    if gpus:
        return decoding
    model_flops = 2.0 * (weights_bytes / 4) * n_tokens
    return 1 / (1 / decoding + model_flops / (60e9 * cpus))


def clips_per_task(
    sizes: Sizes, *, clip_bytes: int, cpus: float, n_models: int, store_bytes: int
) -> int:
    """Clips that a task decodes: whole batches of one shard, and whole videos if they fit.

    As many as give `TASK_BYTES` or are `TASK_CLIPS`, but fewer where the object store would not
    hold one task for each CPU and two for each model.

    Parameters
    ----------
    clip_bytes
        Size of a clip's frames as the model takes them, uint8.
    store_bytes
        Of Ray's object store, over all nodes.

    Raises
    ------
    ConfigError
        If the frames of `MIN_TASKS` batches don't fit into `FRAMES_SHARE` of the object store.
    """
    budget = int(store_bytes * FRAMES_SHARE)
    batch_bytes = sizes.batch_size * clip_bytes
    if MIN_TASKS * batch_bytes > budget:
        raise ConfigError(
            f"batch_size: {MIN_TASKS} batches of {sizes.batch_size} clips of "
            f"{clip_bytes / 1e6:.1f} MB are {MIN_TASKS * batch_bytes / 1e6:.0f} MB of frames, more "
            f"than {FRAMES_SHARE:.0%} of an object store of {store_bytes / 1e6:.0f} MB; choose a "
            f"batch_size of {budget // MIN_TASKS // clip_bytes} at most, or an object store "
            f"(local_object_store) of {MIN_TASKS * batch_bytes / FRAMES_SHARE / 1e6:.0f} MB or more"
        )
    n_wanted = max(MIN_TASKS, int(cpus) + 2 * n_models)
    # All views of a video are decoded in one pass, also where they are more than `TASK_BYTES`.
    unit = sizes.unit
    if MIN_TASKS * unit * clip_bytes > budget or unit > sizes.rows_per_shard:
        unit = sizes.batch_size
    n_units = min(TASK_BYTES, budget // n_wanted) // (unit * clip_bytes)
    n_units = max(1, min(n_units, TASK_CLIPS // unit))
    units_per_shard = -(-sizes.rows_per_shard // unit)
    # The tasks of a shard are about equal.
    n_tasks = -(-units_per_shard // n_units)
    return -(-units_per_shard // n_tasks) * unit


def check_columns(sizes: Sizes, *, row_bytes: int, n_models: int, store_bytes: int) -> None:
    """Refuse shards of which those behind the models don't fit beside the frames.

    Parameters
    ----------
    row_bytes
        Size of what is stored of a clip, see `StoreLayout.row_bytes`.

    Raises
    ------
    ConfigError
        If they are more than another `FRAMES_SHARE` of the object store.
    """
    n_shards = n_writers(n_models) + 1
    n_bytes = n_shards * sizes.rows_per_shard * row_bytes
    if n_bytes > store_bytes * FRAMES_SHARE:
        fitting = int(store_bytes * FRAMES_SHARE) // (n_shards * row_bytes)
        raise ConfigError(
            f"rows_per_shard: {n_shards} shards of {sizes.rows_per_shard} rows of "
            f"{row_bytes / 1e6:.2f} MB are {n_bytes / 1e6:.0f} MB behind the models, more than "
            f"{FRAMES_SHARE:.0%} of an object store of {store_bytes / 1e6:.0f} MB; choose "
            f"rows_per_shard of {fitting} at most, fewer layers or no heads, or an object store "
            f"(local_object_store) of {n_bytes / FRAMES_SHARE / 1e6:.0f} MB or more"
        )


def fit_into_store(
    sizes: Sizes,
    *,
    clip_bytes: int,
    row_bytes: int,
    cpus: float,
    n_models: int,
    store_bytes: int,
) -> int:
    """Clips that a task decodes, of a run whose frames and columns fit into the object store.

    Raises
    ------
    ConfigError
        As `clips_per_task` and `check_columns` say.
    """
    n_clips = clips_per_task(
        sizes, clip_bytes=clip_bytes, cpus=cpus, n_models=n_models, store_bytes=store_bytes
    )
    check_columns(sizes, row_bytes=row_bytes, n_models=n_models, store_bytes=store_bytes)
    return n_clips


@dataclass(frozen=True)
class Machine:
    """What the Ray that a run would start on this machine has to give."""

    cpus: int
    gpus: int


@dataclass(frozen=True)
class ModelPool:
    """Copies of the model that run at once."""

    device: str
    """``cpu`` or ``cuda``."""
    n_models: int
    """At the most."""
    n_at_first: int
    """How many of them are started at once; the others are once decoding waits for them."""
    may_grow: bool = False
    """Whether the cluster may get more than it has now."""

    @property
    def n_writers(self) -> int:
        """Shards that are written at once, at the most."""
        return n_writers(self.n_models)


def model_pool(
    config: AttributeConfig, *, cpus: float, gpus: int, may_grow: bool = False
) -> ModelPool:
    """Choose the models' device, and how many run at once beside the decoding.

    One on each GPU; without GPUs at most one for each CPU, and at first a single one.

    Parameters
    ----------
    cpus, gpus
        What the cluster has now.
    may_grow
        Whether it may get more; where not, Ray would wait for ever for what isn't there.

    Raises
    ------
    ConfigError
        If what was asked for isn't there.
    """
    device = config.device if config.device != "auto" else ("cuda" if gpus else "cpu")
    if device == "cuda" and not gpus and not may_grow:
        raise ConfigError("device: 'cuda' was asked for, and there is no GPU")
    default = gpus if device == "cuda" else int(cpus / config.cpus_per_model)
    n_models = config.n_models or max(1, default)
    if n_models * config.cpus_per_model > cpus and not may_grow:
        raise ConfigError(
            f"n_models: {n_models} of cpus_per_model={config.cpus_per_model:g} are more than "
            f"{cpus:g} CPUs; choose less, or a larger local_cpus"
        )
    n_at_first = 1 if device == "cpu" and config.n_models is None else n_models
    return ModelPool(device, n_models, n_at_first, may_grow)


def check_models(config: AttributeConfig, machine: Machine) -> ModelPool:
    """Refuse models that a machine has no room for, or nothing to compile with.

    Raises
    ------
    ConfigError
        As `model_pool` and `check_compiler` say.
    """
    pool = model_pool(config, cpus=machine.cpus, gpus=machine.gpus)
    if config.compile_model:
        check_compiler(pool.device)
    return pool


@dataclass(frozen=True)
class Room:
    """What decodes and explains side by side."""

    cpus: float
    """All of them decode, while no model on them computes."""
    pool: ModelPool
    cpus_per_model: float
