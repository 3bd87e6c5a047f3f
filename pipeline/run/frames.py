"""Which cache of frames the runs of a job use, and which frames they decode for each other."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.frames_cache import FramesCache
from pipeline.clips.frames_folder import FramesIdentity, find_part, open_parts, remove_cache
from pipeline.clips.shared_decode import SharedReader
from pipeline.dataset.manifest import Manifest
from pipeline.errors import ConfigError
from pipeline.run.plan import Plan
from pipeline.store.space import free_bytes

TEMPORARY_NAME = ".frames"
"""Folder beside the runs of a job, in which a run leaves frames for later ones. No run has a name
that begins with a dot."""

PlanOfRows = TypeVar("PlanOfRows", bound=Plan)
"""A plan, or a kind of it."""
_LOGGER = logging.getLogger(__name__)


def with_frames(plans: Sequence[Plan], job_url: str) -> tuple[Plan, ...]:
    """Give each run of a job its part of a cache.

    Each run decodes, in one pass over a file, what the runs behind it will take of it, too. Where
    no cache is configured, a temporary one passes these frames on, and holds no others.

    Parameters
    ----------
    plans
        In the order in which they are carried out, over one manifest and as many views.
    job_url
        Folder of the runs.

    Raises
    ------
    ConfigError
        When the cache can't be written.
    """
    configured = plans[0].config.frames_cache
    if configured is not None and configured.startswith("memory://"):
        raise ConfigError(f"frames_cache: {configured} is seen by one process alone")
    places = [place for place, plan in enumerate(plans) if plan.witness is not None]
    if not places or (configured is None and len(plans) == 1):
        return tuple(plans)
    url = configured or _temporary_url(job_url)
    first = plans[places[0]]
    identities = {place: frames_identity(plans[place]) for place in places}
    # Frames that only the first run sees would never be read from a temporary cache.
    wanted = [identities[place] for place in (places if configured else places[1:])]
    parts: dict[FramesIdentity, FramesCache] = {}
    if wanted:
        size = int(first.config.frames_cache_size)
        parts = open_parts(
            url,
            wanted,
            first.manifest,
            n_views=len(first.views),
            batch_size=first.record.identity.batch_size,
            max_bytes=size if configured else min(size, _spare_bytes(job_url, plans)),
        )
    given = list(plans)
    for place, own in identities.items():
        later = {identities[other]: plans[other] for other in places if other > place}
        cache = parts.get(own) or find_part(url, own, first.manifest)
        if cache is not None and configured is None:
            cache = replace(cache, fills=own in later and own in parts)
        shared = tuple(
            SharedReader(plan.views, plan.checkpoint.geometry.input_size, parts[identity])
            for identity, plan in later.items()
            if identity in parts and identity != own
        )
        given[place] = replace(given[place], cache=cache, shared=shared)
    return tuple(given)


def reading_frames(
    plan: PlanOfRows, manifest: Manifest | None = None, rows: NDArray[np.int64] | None = None
) -> PlanOfRows:
    """Let a later reading of a run's clips take frames from the run's cache, without adding to it.

    Parameters
    ----------
    plan
        Plan of the run, or of a sample of it, with the run's configuration.
    manifest, rows
        For a sample: the run's manifest, and the run's row of each row of the sample, ascending.
    """
    url = plan.config.frames_cache
    if url is None:
        return plan
    try:
        part = find_part(url, frames_identity(plan), manifest or plan.manifest)
    except ConfigError as error:
        # Frames can always be decoded again.
        _LOGGER.warning("%s", error)
        return plan
    return replace(plan, cache=part and replace(part, sample=rows))


def frames_identity(plan: Plan) -> FramesIdentity:
    """Give what decides the frames of a run."""
    config, input_size = plan.config, plan.checkpoint.geometry.input_size
    return FramesIdentity.of_run(plan.views, input_size, config.decoder, plan.manifest.segments)


def remove_temporary(job_url: str) -> None:
    """Delete the frames that runs have left for each other, once no run needs them.

    Raises
    ------
    StorageError
        If the storage refuses.
    """
    remove_cache(_temporary_url(job_url))


def _temporary_url(job_url: str) -> str:
    return f"{job_url.rstrip('/')}/{TEMPORARY_NAME}"


def _spare_bytes(job_url: str, plans: Sequence[Plan]) -> int:
    """Half of the space that the runs leave free; no bound if the storage doesn't say."""
    free = free_bytes(job_url)
    if free is None:
        return 1 << 62
    needed = sum(plan.layout.row_bytes * plan.layout.n_rows for plan in plans)
    return max(0, free - needed) // 2
