"""A run has one owner: a small object beside its store says who is working on it.

A driver that writes a run holds its lease, renews it every few seconds, and stops writing once
another driver's lease is in its place. A lease is taken over without a flag when its holder is seen
to be gone: its process on this host has ended, or the object hasn't changed for `EXPIRY_S`. The
object is watched for that time, so that clocks need not agree.

Of several drivers that start, or take over, at once, one gets the lease. It is created on condition
that there is none, and renewed and taken over on condition that it is still what was read: under a
lock of the folder on a disk, by If-None-Match and If-Match on S3. Not every storage has that, and
some ignore what they don't know, so a driver that takes a lease over reads it again after a while.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import LeaseError, LeaseLostError, StorageError, StoreError, reason_of
from pipeline.storage.files import open_filesystem, read_bytes, write_bytes
from pipeline.storage.retries import http_status, with_retries
from pipeline.store.run_folder import lease_url

EXPIRY_S = 60.0
"""Time without a renewal after which a lease is taken over."""
RENEWAL_S = 10.0
"""Between two renewals."""
_SETTLE_S = 2.0
"""Time between writing a lease over another one and checking that it is still there."""
_LOOK_S = 1.0
"""Time between two looks at a lease that is watched."""

_LOCK_TRIES, _LOCK_WAIT_S = 20, 0.05

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Times:
    """How often a lease is renewed, and how long a lease that isn't renewed is watched, s."""

    expiry_s: float = EXPIRY_S
    renewal_s: float = RENEWAL_S
    settle_s: float = _SETTLE_S
    look_s: float = _LOOK_S


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    host: str
    pid: int
    machine: str
    """The host's boot and the process's namespace: a process id means something only in these."""
    started: str
    """When the process started, as the system counts: process ids are given again."""
    verb: str
    """What it does, for example ``attribute``."""

    def __str__(self) -> str:
        """For messages."""
        return f"{self.verb} in process {self.pid} on {self.host}"

    @property
    def is_gone(self) -> bool:
        """Whether its process is known to have ended; False where that can't be seen from here."""
        if not self.machine or self.machine != _machine():
            return False
        started = _started(self.pid)
        return started != self.started and not (not started and _is_of_another_user(self.pid))


@dataclass(frozen=True)
class Lease:
    """A run's lease as a driver holds it; any process can check that it is still held."""

    url: str
    holder: Holder
    token: str = field(default_factory=lambda: uuid4().hex)
    """Distinguishes this holding of the lease from every other."""

    def check(self) -> None:
        """Refuse to go on once somebody else holds the lease.

        Raises
        ------
        LeaseLostError
            Names the new holder.
        StorageError
            If it couldn't be read for as long as was tried.
        """
        found = _read(self.url)
        if found is None or found.token != self.token:
            whom = f"was taken over by {found.holder}" if found else "is gone"
            raise LeaseLostError(
                f"the lease of this run, {self.url}, {whom}; nothing more is written"
            )


@contextmanager
def leased(
    run_url: str,
    *,
    verb: str,
    take_over: bool = False,
    times: Times | None = None,
) -> Iterator[Lease]:
    """Hold a run's lease while open.

    Parameters
    ----------
    take_over
        Take it over at once, whoever seems to hold it.

    Raises
    ------
    LeaseError
        If somebody else holds it; names them.
    StoreError
        If it can't be written.
    """
    times = times or Times()
    lease = _acquired(lease_url(run_url), verb, take_over, times)
    stop = threading.Event()
    renewer = threading.Thread(target=_renew, args=(lease, stop, times), name="lease", daemon=True)
    renewer.start()
    try:
        yield lease
    finally:
        stop.set()
        # It may be waiting for a storage that is away.
        renewer.join(times.look_s)
        _release(lease)


def held_by(run_url: str) -> Holder | None:
    """Say who holds a run's lease; None if nobody does, or a process that is known to be gone."""
    found = _read(lease_url(run_url))
    return None if found is None or found.holder.is_gone else found.holder


def _acquired(url: str, verb: str, take_over: bool, times: Times) -> Lease:
    lease = Lease(url, _this_process(verb))
    text = _text(lease, 0)
    found = _read_text(url)
    if found is not None and not take_over:
        found = _watched(url, found, times)
    if found is None:
        if _created(url, text):
            return lease
        faster = _read_text(url)
        if faster == text.decode():
            # The answer to the first try was lost.
            return lease
        if faster is not None and not take_over:
            raise _refusal(url, _parsed(url, faster))
        _write(url, text)
    elif take_over or (swapped := _swapped(url, found, text)) is None:
        _write(url, text)
    elif not swapped and _read_text(url) != text.decode():
        raise _refusal(url, _parsed(url, _read_text(url)))
    # Any driver that saw the same has written by now, or will see this lease.
    time.sleep(times.settle_s)
    if (now := _parsed(url, _read_text(url))) is None or now.token != lease.token:
        raise _refusal(url, now)
    return lease


def _watched(url: str, found: str, times: Times) -> str | None:
    """Watch a lease until its holder is seen to be gone; give its text, or None if it was deleted.

    Raises
    ------
    LeaseError
        If it was renewed meanwhile.
    """
    lease = _parsed(url, found)
    if lease is not None and lease.holder.is_gone:
        return found
    _LOGGER.warning(
        "%s is held by %s; watching for %g s whether it is renewed",
        url,
        lease.holder if lease else "nobody that is known",
        times.expiry_s,
    )
    deadline_s = time.monotonic() + times.expiry_s
    while time.monotonic() < deadline_s:
        time.sleep(times.look_s)
        now = _read_text(url)
        if now is None:
            return None
        if now != found:
            raise _refusal(url, _parsed(url, now))
    return found


def _is_of_another_user(pid: int) -> bool:
    """Whether there is such a process of another user, about which the system may hide the rest."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _refusal(url: str, lease: Lease | None) -> LeaseError:
    whom = lease.holder if lease else "somebody"
    return LeaseError(
        f"{whom} is working on this run, and renews its lease {url}; wait until it has ended, or "
        "give --take-over if it can't be alive"
    )


def _renew(lease: Lease, stop: threading.Event, times: Times) -> None:
    n_renewals, last = 0, _text(lease, 0).decode()
    while not stop.wait(times.renewal_s):
        try:
            n_renewals += 1
            text = _text(lease, n_renewals)
            if not (swapped := _swapped(lease.url, last, text)):
                # Somebody took it over, or the storage knows no conditions, or the last write
                # succeeded although it seemed to fail.
                lease.check()
                if swapped is None or not _swapped(lease.url, _read_text(lease.url) or "", text):
                    _write(lease.url, text)
            last = text.decode()
        except LeaseLostError as error:
            # The next write will see it too.
            _LOGGER.warning("%s", error)
            return
        except Exception as error:  # The storage is away: the run will say so, or it comes back.
            _LOGGER.warning("%s can't be renewed: %s", lease.url, reason_of(error))


def _release(lease: Lease) -> None:
    """Delete the lease if it is still this one's; a storage that is away leaves it to expire."""
    with suppress(Exception):
        lease.check()
        filesystem, path = open_filesystem(lease.url)
        filesystem.rm_file(path)


def _text(lease: Lease, n_renewals: int) -> bytes:
    values = {"token": lease.token, "holder": asdict(lease.holder), "renewals": n_renewals}
    return json.dumps(values, indent=1).encode()


def _read(url: str) -> Lease | None:
    return _parsed(url, _read_text(url))


def _read_text(url: str) -> str | None:
    try:
        return read_bytes(url).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, ImportError) as error:
        raise StoreError(f"out: can't read {url}: {reason_of(error)}") from error


def _parsed(url: str, text: str | None) -> Lease | None:
    """Read a lease; None if there is none, or it is incomplete."""
    try:
        values: dict[str, Any] = json.loads(text or "")
        return Lease(url, Holder(**values["holder"]), token=str(values["token"]))
    except (ValueError, KeyError, TypeError):
        return None


def _write(url: str, data: bytes) -> None:
    try:
        write_bytes(url, data)
    except (OSError, ValueError, ImportError) as error:
        raise StoreError(f"out: can't write {url}: {reason_of(error)}") from error


def _created(url: str, data: bytes) -> bool:
    """Create the object if there is none; False if there is one, or the storage can't do that."""
    filesystem, path = open_filesystem(url)
    if isinstance(filesystem, LocalFileSystem):
        return _linked(Path(path), data)
    try:
        # The drivers of S3, Google and Azure then write on condition; others may not know the mode.
        with_retries(url, lambda: filesystem.pipe_file(path, data, mode="create"))
    except FileExistsError:
        return False
    except (NotImplementedError, TypeError, ValueError, OSError):
        return False
    return True


def _swapped(url: str, found: str, data: bytes) -> bool | None:
    """Write the object if it still holds a text: whether it did, or None if that can't be done."""
    filesystem, path = open_filesystem(url)
    if isinstance(filesystem, LocalFileSystem):
        return _swapped_under_lock(url, Path(path), found, data)
    protocols = filesystem.protocol
    if "s3" not in ((protocols,) if isinstance(protocols, str) else protocols):
        return None
    try:
        # The mark is read first: if the text changes in between, the write is refused.
        mark = with_retries(url, lambda: filesystem.info(path, refresh=True))["ETag"]
        if _read_text(url) != found:
            return False
        filesystem.pipe_file(path, data, IfMatch=mark)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, KeyError, StorageError) as error:
        # Our own write may be the reason, if its answer got lost; the caller compares the text.
        if "PreconditionFailed" in f"{error!r} {error.__cause__!r}" or _is_412(error):
            return False
        return None
    return True


def _is_412(error: BaseException) -> bool:
    # 409 is S3's for two that write at once.
    return bool({409, 412} & {http_status(error), http_status(error.__cause__ or error)})


def _swapped_under_lock(url: str, path: Path, found: str, data: bytes) -> bool | None:
    """Do it on a disk, where everybody who changes a lease locks its folder."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError:
        return None
    try:
        for _ in range(_LOCK_TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(_LOCK_WAIT_S)
        else:
            # The process that holds the lock may have been stopped.
            return None
        if _read_text(url) != found:
            return False
        _write(url, data)
    except OSError:
        # Not every network's disk locks folders.
        return None
    finally:
        os.close(folder)
    return True


def _linked(path: Path, data: bytes) -> bool:
    """Create a local file together with its content, in one step."""
    partial = path.with_name(f".{uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        # On disks without hard links the file is written and read again, as on other storages.
        os.link(partial, path)
    except OSError:
        return False
    finally:
        with suppress(OSError):
            partial.unlink()
    return True


def _this_process(verb: str) -> Holder:
    pid = os.getpid()
    return Holder(socket.gethostname(), pid, _machine(), _started(pid), verb)


def _machine() -> str:
    """Boot and process namespace; empty where the system doesn't tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in clock ticks since the boot; empty if there is none."""
    try:
        # The name in front, in brackets, may hold anything.
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    # A zombie has ended.
    return "" if stat[0] == "Z" else stat[19]
