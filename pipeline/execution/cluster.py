"""Where a run is carried out: on the Ray that is there, a named cluster, or a Ray of its own."""

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import ClusterError, ConfigError
from pipeline.execution.own_ray import QUIET, REPLACEMENTS, for_one_run
from pipeline.models.device import n_gpus
from pipeline.run.config import AttributeConfig
from pipeline.run.resources import Machine, ModelPool, Room, check_models, model_pool

RAYLET_ENVIRONMENT = {"RAY_idle_worker_killing_time_threshold_ms": "600000"}
"""For the Ray of each node. If there are more workers than CPUs, Ray ends those that are idle for a
second. Writers and decoders that wait look idle, and a worker takes seconds to start again."""

_DRIVER_ENVIRONMENT = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
}
"""For a Ray of the run's own. Its log lines mean nothing to a user. Its head isn't started again,
and without this a driver would wait a minute for it. What its processes would note of each task and
event is for a dashboard, which isn't there."""

_OBJECT_STORE_BYTES = 200_000_000
"""Where no frames lie in it."""
_CONNECT_S = 10.0
_READ_S = 60.0
"""For a node to read a file of a few bytes."""
_LOGGER = logging.getLogger(__name__)
_AUTHENTICATION_LOGGER = "ray._private.authentication.authentication_token_setup"


def machine_to_start(config: AttributeConfig) -> Machine | None:
    """Say what the Ray that this run would start has; None where one is there or named.

    What such a Ray could never do is refused before it is started.
    """
    return Machine(_local_cpus(config.local_cpus), n_gpus()) if _starts_ray() else None


@contextmanager
def connected(config: AttributeConfig) -> Iterator[ModelPool]:
    """While open, Ray is there, see `ray_there`, with room for models.

    Raises
    ------
    ConfigError, ClusterError
        As `ray_there` and `model_pool` say.
    """
    with ray_there(config.local_cpus, int(config.local_object_store)) as may_grow:
        yield _present_pool(config, may_grow=may_grow)


@contextmanager
def ray_there(
    local_cpus: int | None = None, object_store_bytes: int = _OBJECT_STORE_BYTES
) -> Iterator[bool]:
    """While open, Ray is there: this process's, the cluster's of ``RAY_ADDRESS``, or a new one.

    What was connected or started here is disconnected or stopped afterwards.

    Parameters
    ----------
    local_cpus, object_store_bytes
        CPUs, by default all, and object store of a new one.

    Yields
    ------
    Whether it may get more than it has now, as a cluster may

    Raises
    ------
    ConfigError
        If no cluster answers at ``RAY_ADDRESS``.
    ClusterError
        If no Ray can be started here.
    """
    if ray.is_initialized():
        yield True
        return
    starts = _starts_ray()
    # Ray puts one of its own in its place.
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with for_one_run(REPLACEMENTS if starts else QUIET):
        try:
            if starts:
                # Otherwise every run warns that tokens are on, and about actors that Ray Data
                # has made.
                logging.getLogger(_AUTHENTICATION_LOGGER).setLevel(logging.ERROR)
                for name, value in (RAYLET_ENVIRONMENT | _DRIVER_ENVIRONMENT).items():
                    os.environ.setdefault(name, value)
                _start(local_cpus, object_store_bytes)
            else:
                _connect()
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)
            yield not starts
        finally:
            ray.shutdown()


def _start(local_cpus: int | None, object_store_bytes: int) -> None:
    """Start a Ray of the run's own, whose token only the user can read.

    Everybody can read its session folder, below `/tmp/ray`, since each of Ray's processes opens it
    to all. ``RAY_TMPDIR`` may name a folder that only the user can read.

    Raises
    ------
    ClusterError
        If it can't be started.
    """
    _keep_token_private()
    try:
        ray.init(
            address="local",
            num_cpus=_local_cpus(local_cpus),
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    # Ray raises plain exceptions, for example if the machine is too slow for it.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ClusterError(
            f"Ray can't be started on this machine: {reason} --serial computes without it"
        ) from error
    _keep_token_private()


def check_target(config: AttributeConfig) -> None:
    """Refuse folders on a cluster that each node would have for itself.

    Raises
    ------
    ConfigError
        If ``out`` or ``frames_cache`` is a relative path.
    """
    if _starts_ray():
        return
    for key, url in (("out", config.out), ("frames_cache", config.frames_cache)):
        if url and _is_local(url) and not _local_path(url).is_absolute():
            raise ConfigError(
                f"{key}: {url!r} is a relative path, which on a cluster is another folder on each "
                "node; expected a URL, or the absolute path of a disk that all nodes share"
            )


def check_shared(url: str, key: str = "out") -> None:
    """Refuse a path, the value of ``key``, that isn't on a disk that every node reads.

    A file is written there, and read on each node of the cluster. A node that joins later isn't
    checked, nor is one that is too busy to answer, which is told; if it lacks the disk it finds no
    store to write, and the pass breaks off.

    Raises
    ------
    ConfigError
        Names the first node that doesn't read it.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if not _is_local(url) or len(nodes) < 2:
        return
    path, token = _local_path(url) / f".{uuid4().hex}.token", uuid4().hex
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(token)
    try:
        strangers, silent = nodes_without(path, token, nodes)
    finally:
        path.unlink(missing_ok=True)
    if strangers:
        raise ConfigError(
            f"{key}: {url} isn't the same folder on node {strangers[0]}: what this machine "
            "writes there isn't read there; expected a URL, or a path on a disk that all nodes "
            "share"
        )
    if silent:
        _LOGGER.warning(
            "%s: whether %s is on a disk that all nodes share isn't known of %s, as no answer came "
            "in %.0f s",
            *(key, url, ", ".join(silent), _READ_S),
        )


def read_everywhere(urls: Sequence[str]) -> bool:
    """Whether each node of Ray reads some small files, of which those at paths have to be the same.

    Other processes read nothing at ``memory://``.
    """
    if any(url.startswith("memory://") for url in urls):
        return False
    nodes = [node for node in ray.nodes() if node["Alive"]]
    paths = [_local_path(url) for url in urls if _is_local(url)]
    # On one node a path is the same for all: this process is there, too.
    return len(nodes) < 2 or all(
        path.exists() and nodes_without(path, path.read_text(), nodes) == ([], []) for path in paths
    )


def nodes_without(
    path: Path, token: str, nodes: Sequence[Mapping[str, Any]], *, answer_s: float = _READ_S
) -> tuple[list[str], list[str]]:
    """Names of the nodes on which a file doesn't hold a text, and of those that don't answer."""
    read = ray.remote(_read_text)
    answers = {
        read.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(path): f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in nodes
    }
    ray.wait([*answers], num_returns=len(answers), timeout=answer_s)
    strangers, silent = [], []
    for answer, name in answers.items():
        try:
            if ray.get(answer, timeout=0) != token:
                strangers.append(name)
        # Whoever says nothing is busy, or gone by now.
        except RayError:
            silent.append(name)
    return strangers, silent


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def _local_path(url: str) -> Path:
    return Path(url.removeprefix("file://"))


def _keep_token_private() -> None:
    """Let only the user read the file of Ray's token, which Ray lets everybody read."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    # The folder or file may belong to another user, who keeps it as it is.
    with suppress(OSError, RuntimeError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if file.exists():
            file.chmod(0o600)


def check_alive() -> None:
    """End a run whose Ray has no node left to work on.

    Raises
    ------
    ClusterError
        Says so.
    """
    if not any(node["Alive"] and node["Resources"].get("CPU") for node in ray.nodes()):
        raise ClusterError("no node of Ray is left that could work on the run")


def n_cpus() -> float:
    """CPUs of the cluster as it is now."""
    return float(ray.cluster_resources().get("CPU", 1))


def room_for(config: AttributeConfig) -> Room:
    """Say what would work on a run, without starting it.

    Raises
    ------
    ConfigError, ClusterError
        As `connected` does; Ray is asked only if one is running or ``RAY_ADDRESS`` names one.
    """
    if machine := machine_to_start(config):
        return Room(machine.cpus, check_models(config, machine), config.cpus_per_model)
    with connected(config) as pool:
        return Room(n_cpus(), pool, config.cpus_per_model)


def _connect() -> None:
    try:
        if endpoint := re.fullmatch(r"(?:ray://)?([\w.-]+):(\d+)", os.environ["RAY_ADDRESS"]):
            # Ray itself would try for minutes.
            socket.create_connection((endpoint[1], int(endpoint[2])), _CONNECT_S).close()
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"RAY_ADDRESS: no cluster answers at {os.environ['RAY_ADDRESS']!r}: {reason}"
        ) from error


def _present_pool(config: AttributeConfig, *, may_grow: bool) -> ModelPool:
    resources = ray.cluster_resources()
    return model_pool(
        config,
        cpus=resources.get("CPU", 1),
        gpus=int(resources.get("GPU", 0)),
        may_grow=may_grow,
    )


def _starts_ray() -> bool:
    return not ray.is_initialized() and not os.environ.get("RAY_ADDRESS")


def _local_cpus(asked: int | None) -> int:
    """CPUs as Ray counts them: with one, nothing could decode while the model runs."""
    return asked or max(2, os.cpu_count() or 2)
