"""The sessions in a folder: their names, their sizes, and which are deleted."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pipeline.storage.files import delete_tree, open_filesystem, read_bytes
from pipeline.storage.retries import with_retries
from pipeline.store.run_folder import in_run

_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(-\d+)?")
ENDED_NAME = "ended.json"
"""Says when a session ended, in its folder."""


@dataclass(frozen=True)
class Kept:
    """A session in a folder, and what it takes."""

    url: str
    n_bytes: int
    ended: datetime
    """When it ended; where that isn't noted, when it began."""


def new_session(out: str, now: datetime | None = None) -> str:
    """Choose the folder of a new session: the time in UTC, in a folder that isn't there."""
    name = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H-%M-%SZ")
    there = set(names_of(out))
    number = 1
    chosen = name
    while chosen in there:
        number += 1
        chosen = f"{name}-{number}"
    return in_run(out, chosen)


def names_of(out: str) -> list[str]:
    """Names of the sessions in a folder, the oldest first; nothing if there is no such folder."""
    filesystem, path = open_filesystem(out)
    try:
        found = with_retries(out, lambda: filesystem.ls(path, detail=False, refresh=True))
    except FileNotFoundError:
        return []
    names = [str(entry).rstrip("/").rpartition("/")[2] for entry in found]
    return sorted((name for name in names if _NAME.fullmatch(name)), key=_order)


def sessions_of(out: str) -> list[Kept]:
    """Say what the sessions in a folder take, the oldest first."""
    kept = []
    for name in names_of(out):
        url = in_run(out, name)
        filesystem, path = open_filesystem(url)
        n_bytes = with_retries(url, partial(filesystem.du, path))
        kept.append(Kept(url, int(n_bytes), _ended(url, name)))
    return kept


def retain(
    out: str,
    current: str,
    *,
    age_s: float | None,
    n_bytes: int | None,
    now: datetime | None = None,
) -> list[str]:
    """Delete sessions that are too old, and the oldest while all together are too large.

    Parameters
    ----------
    current
        The session that goes on, which stays.

    Returns
    -------
    URLs of what was deleted, the oldest first
    """
    if age_s is None and n_bytes is None:
        return []
    now = now or datetime.now(UTC)
    sessions = sessions_of(out)
    total = sum(session.n_bytes for session in sessions)
    deleted = []
    for session in sessions:
        if session.url == current:
            continue
        is_old = age_s is not None and (now - session.ended).total_seconds() > age_s
        if not is_old and (n_bytes is None or total <= n_bytes):
            continue
        delete_tree(session.url)
        total -= session.n_bytes
        deleted.append(session.url)
    return deleted


def has_ended(url: str) -> bool:
    """Whether a session came to its end, and was not cut off."""
    filesystem, path = open_filesystem(in_run(url, ENDED_NAME))
    return bool(with_retries(url, lambda: filesystem.exists(path)))


def ended_note(now: datetime) -> bytes:
    """Content of the note that says when a session ended."""
    return json.dumps({"ended": now.isoformat(timespec="seconds")}).encode()


def _ended(url: str, name: str) -> datetime:
    with suppress(OSError, ValueError, KeyError, TypeError):
        values: dict[str, Any] = json.loads(read_bytes(in_run(url, ENDED_NAME)))
        return datetime.fromisoformat(values["ended"])
    return datetime.strptime(name[:20], "%Y-%m-%dT%H-%M-%SZ").replace(tzinfo=UTC)


def _order(name: str) -> tuple[str, int]:
    stamp, _, number = name.partition("Z")
    return stamp, int(number.lstrip("-") or 1)


def urls_of(out: str) -> list[str]:
    """URLs of the sessions in a folder, the oldest first."""
    return [in_run(out, name) for name in names_of(out)]
