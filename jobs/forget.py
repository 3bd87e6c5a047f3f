"""Take videos out of a run for good: ``python -m jobs.forget --help``."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.cli import BROKEN_OFF, RunWriter, owned_run, run_job, writing
from pipeline.errors import ConfigError, ManifestError, reason_of
from pipeline.text import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.dataset.manifest import Manifest
    from pipeline.store.lease import Lease
    from pipeline.store.opening import Store

_MOST_BYTES = 100_000_000
_N_NAMED = 3


class ForgetConfig(RunWriter):
    """Take videos out of a run for good: for consent that was withdrawn, or a takedown.

    Attributions, answers, names and digests of these videos leave the store; tables of scores,
    statistics, metrics, findings and the page are deleted, to be made again without them. The rows
    stay, with the status `removed`, and no later command brings them back. The clips themselves,
    the manifest, pages that were written elsewhere, and versions or backups that a storage keeps
    are left to you.
    """

    videos: str
    """File with a video id or a path of the manifest in each line; any fsspec URL. If one row of a
    file is named, all rows of that file are taken out."""
    manifest: str | None = None
    """Where the run's manifest is now; by default where it was when the run was made."""
    frames_cache: str | None = None
    """Cache of frames from which their frames are erased too, in place of one that isn't where the
    run has used it; all others that it has used are searched anyway."""


@dataclass(frozen=True)
class FromCaches:
    """What became of frames.

    Attributes
    ----------
    erased
        Rows that each cache gave up, by its URL.
    absent
        URLs of caches that aren't there.
    """

    erased: dict[str, int]
    absent: tuple[str, ...]


def forget(config: ForgetConfig) -> int:
    """Take the rows out of everything that a run has kept, and say what is left."""
    names = _names(config.videos)
    with owned_run(config, "forget") as (store, lease):
        return _forget(config, names, store, lease)


def _forget(config: ForgetConfig, names: list[str], store: "Store", lease: "Lease") -> int:
    from pipeline.store.append import finish_append
    from pipeline.store.removed import (
        Removals,
        delete_derived,
        digest_of_name,
        matching_rows,
        remove_rows,
        with_removed,
    )

    with writing("run", config.run):
        finish_append(store)
        manifest = _manifest_of(config, store)
        before = Removals.read(config.run)
        removals = before | names
        found = matching_rows(store, manifest, removals.names)
        of_file = {digest_of_name(name) for name in names}
        if not found.found & of_file and not of_file <= before.names:
            raise ConfigError(
                f"videos: none of {len(names)} lines of {config.videos} is the id or path of a "
                f"video in {config.run}; the first is {names[0][:60]!r}"
            )
        if found.paths:
            removals = removals.with_digests(found.paths)
            found = matching_rows(store, manifest, removals.names)
        rows = with_removed(store, found.rows)
        lease.check()
        # Only this command erases frames, which are found by what the rows still say.
        frames = _forget_frames(config, store, manifest, rows)
        # If it is cut off from here on, a later command finishes it.
        removals.write(config.run)
        deleted = delete_derived(config.run, rows)
        remove_rows(store, rows, lease)
        if not config.take_over:
            # The driver whose lease was taken may still be writing a shard: the next command erases
            # again.
            removals.finished().write(config.run)
    print(f"forget: {len(rows)} rows of {config.run} are removed, and stay so")
    for url, n_rows in frames.erased.items():
        print(f"forget: {url} gave up the frames of {n_rows} rows")
    unknown = [name for name in names if digest_of_name(name) not in found.found]
    if unknown:
        first = ", ".join(printable(name[:60]) for name in unknown[:_N_NAMED])
        print(
            f"forget: {len(unknown)} names are of no video of the run, and are kept out of what is "
            f"appended to it: {first}{' ...' if len(unknown) > _N_NAMED else ''}"
        )
    if deleted:
        print(
            f"forget: deleted {', '.join(deleted)}; jobs.aggregate, jobs.audit and jobs.evaluate "
            "make them again"
        )
    return 0 if _tell_left(frames, manifest) else BROKEN_OFF


def _tell_left(frames: FromCaches, manifest: "Manifest | None") -> bool:
    """Warn of frames that may be left: whether there are none."""
    for url in frames.absent:
        print(
            f"forget: warning: {url} isn't there, and if that cache is elsewhere by now it has "
            "these frames: give its place as --frames-cache",
            file=sys.stderr,
        )
    unsearched = frames.erased if manifest is None else {}
    for url in unsearched:
        print(
            f"forget: warning: {url} may still have frames of videos that failed in this run: "
            "without the manifest it isn't known where; delete that folder",
            file=sys.stderr,
        )
    return not frames.absent and not unsearched


def _forget_frames(
    config: ForgetConfig, store: "Store", manifest: "Manifest | None", rows: "NDArray[np.int64]"
) -> FromCaches:
    """Erase frames from the run's caches, and from the one that runs of a job share meanwhile."""
    import numpy as np

    from pipeline.clips.frames_folder import forget_videos, is_there
    from pipeline.run.frames import TEMPORARY_NAME
    from pipeline.run.prepare import absolute_url, caches_of

    given = absolute_url(config.frames_cache) if config.frames_cache else None
    folder, slash, _ = config.run.rstrip("/").rpartition("/")
    shared = f"{folder}/{TEMPORARY_NAME}" if slash else TEMPORARY_NAME
    videos = np.unique(store.record.views.video(rows))
    digests = _digests(store, rows)
    erased, absent = {}, []
    for url in dict.fromkeys([*([given] if given else []), *caches_of(config.run, store.record)]):
        if is_there(url):
            erased[url] = forget_videos(url, manifest, videos, digests)
        # The one that is given stands for one that isn't there.
        elif url == given or given is None:
            absent.append(url)
    if is_there(shared):
        erased[shared] = forget_videos(shared, manifest, videos, digests)
    return FromCaches(erased, tuple(absent))


def _digests(store: "Store", rows: "NDArray[np.int64]") -> set[bytes]:
    """Digests of the files of some rows, as far as they are stored."""
    from pipeline.clips.columns import DIGEST_BYTES

    if "clip_digest" not in store.layout.arrays() or not len(rows):
        return set()
    stored = store.array("clip_digest").get_orthogonal_selection((rows,))
    return {digest.tobytes() for digest in stored} - {bytes(DIGEST_BYTES)}


def _names(url: str) -> list[str]:
    from pipeline.storage.files import read_bytes

    try:
        text = read_bytes(url, at_most=_MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"videos: can't read {url}: {reason_of(error)}") from error
    names = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not names:
        raise ConfigError(f"videos: {url} has no lines; expected a video id or a path in each")
    return names


def _manifest_of(config: ForgetConfig, store: "Store") -> "Manifest | None":
    """Read the run's manifest; None, with a warning, if it can't be read.

    Raises
    ------
    ManifestError
        If one was given that isn't the run's.
    """
    from pipeline.dataset.manifest import read_manifest

    record = store.record
    url = config.manifest or str(record.config["manifest"])
    n_videos = record.views.video(store.layout.n_rows)
    try:
        manifest = read_manifest(url)
        if manifest.n_rows < n_videos or (
            manifest.digest_of_first(n_videos) != record.identity.manifest
        ):
            raise ManifestError(f"manifest: {url} isn't the one that the run was made from")
    except ManifestError as error:
        if config.manifest is not None:
            raise
        print(
            f"forget: warning: {error}; lines are compared with the ids in the store, and paths "
            "aren't known",
            file=sys.stderr,
        )
        return None
    return manifest


if __name__ == "__main__":
    sys.exit(run_job(ForgetConfig, forget, verb="forget"))
