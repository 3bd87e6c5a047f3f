"""Which cache of frames the runs of a job read and fill, and what they decode for one another."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from pipeline.clips.frames_cache import FramesCache
from pipeline.clips.frames_folder import FramesIdentity, find_part, open_parts, remove_cache
from pipeline.clips.shared_decode import SharedReader
from pipeline.errors import ConfigError
from pipeline.run.plan import Plan
from pipeline.storage.files import open_filesystem

TEMPORARY_NAME = ".frames"
"""Folder beside the runs of a job, in which one leaves frames for those behind it. No run has a
name that begins with a dot."""


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
    # Nobody takes from a temporary cache what the first run sees alone.
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
            max_bytes=size if configured else min(size, _spare_bytes(job_url)),
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


def frames_identity(plan: Plan) -> FramesIdentity:
    """Tell what decides the frames of a run."""
    config, input_size = plan.config, plan.checkpoint.geometry.input_size
    return FramesIdentity.of_run(plan.views, input_size, config.decoder, plan.manifest.segments)


def remove_temporary(job_url: str) -> None:
    """Delete what runs have left for one another, once none of them needs it.

    Raises
    ------
    StorageError
        If the storage refuses.
    """
    remove_cache(_temporary_url(job_url))


def _temporary_url(job_url: str) -> str:
    return f"{job_url.rstrip('/')}/{TEMPORARY_NAME}"


def _spare_bytes(job_url: str) -> int:
    """Half of what is free where the runs are: they get the other. Not bounded where none tells."""
    filesystem, path = open_filesystem(job_url)
    if not isinstance(filesystem, LocalFileSystem):
        return 1 << 62
    folder = Path(path)
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free // 2
