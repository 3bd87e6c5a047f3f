"""What the workers of a run's own Ray load while the run is still being planned.

A worker of Ray takes seconds to load what a task needs, and its decoder's child part of a second.
Done while the driver loads libraries of its own, both are ready when the first tasks come.
"""

import ray

from pipeline.clips.decoder_process import DECODE, process_decoder

_MOST_WORKERS = 8
"""With more CPUs than these, starting up isn't the bottleneck."""


def load_ahead(*, cpus: int, decode_memory_bytes: int) -> None:
    """Have a worker for each CPU get ready to decode; nobody waits for them."""
    # More than decode at once would still be at it when the tasks come, which then get others.
    # Without a result, nothing is told of one that fails: the first task then does it all.
    task = ray.remote(num_cpus=0, num_returns=0, max_retries=0)(_get_ready)
    for _ in range(min(cpus, _MOST_WORKERS)):
        task.remote(decode_memory_bytes)


def _get_ready(decode_memory_bytes: int) -> None:
    # They load Ray Data, and what reads and loads.
    from pipeline.clips import loader  # noqa: F401
    from pipeline.execution import counter, source  # noqa: F401

    process_decoder(DECODE, decode_memory_bytes).get_ready()
