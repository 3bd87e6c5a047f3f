"""Where a run is carried out: on the Ray that is there, a named cluster, or a Ray of its own."""

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline.errors import ConfigError
from pipeline.models.device import n_gpus
from pipeline.run.config import AttributeConfig
from pipeline.run.resources import Machine, ModelPool, model_pool

RAYLET_ENVIRONMENT = {"RAY_idle_worker_killing_time_threshold_ms": "600000"}
"""For each node's Ray, which ends workers that are idle for a second where there are more than
CPUs. Writers and waiting decoders are, and a worker takes seconds to start again."""

_CONNECT_S = 10.0
_AUTHENTICATION_LOGGER = "ray._private.authentication.authentication_token_setup"


def machine_to_start(config: AttributeConfig) -> Machine | None:
    """Say what the Ray that this run would start has; None where one is there or named.

    What such a Ray could never do is refused before it is started.
    """
    return Machine(_local_cpus(config), n_gpus()) if _starts_ray() else None


@contextmanager
def connected(config: AttributeConfig) -> Iterator[ModelPool]:
    """While open, Ray is there: this process's, the cluster's of ``RAY_ADDRESS``, or a new one.

    What was connected or started here is left or stopped after.

    Raises
    ------
    ConfigError
        If no cluster answers at ``RAY_ADDRESS``, and as `model_pool` says.
    """
    if ray.is_initialized():
        yield _present_pool(config, may_grow=True)
        return
    starts = _starts_ray()
    # Ray puts one of its own in its place.
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if starts:
            # Else every run warns that tokens are on, and of how Ray Data made its own actors.
            logging.getLogger(_AUTHENTICATION_LOGGER).setLevel(logging.ERROR)
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            for name, value in RAYLET_ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            ray.init(
                address="local",
                num_cpus=_local_cpus(config),
                object_store_memory=int(config.local_object_store),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        else:
            _connect()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
        yield _present_pool(config, may_grow=not starts)
    finally:
        ray.shutdown()


def _connect() -> None:
    try:
        if endpoint := re.fullmatch(r"(?:ray://)?([\w.-]+):(\d+)", os.environ["RAY_ADDRESS"]):
            # Ray itself would try for minutes.
            socket.create_connection((endpoint[1], int(endpoint[2])), _CONNECT_S).close()
        ray.init(log_to_driver=False)
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


def _local_cpus(config: AttributeConfig) -> int:
    """CPUs are Ray's unit of account: with one, nothing could decode beside the model."""
    return config.local_cpus or max(2, os.cpu_count() or 2)
