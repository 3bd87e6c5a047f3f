"""Processes that a test started and that it is to kill, found by their environment (Linux)."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

HANG_S = 300
"""Only a guard: what takes this long is stuck."""


def processes_of(ray_folder):
    """Processes of a job and of the Ray that it started."""
    mark = f"RAY_TMPDIR={ray_folder}".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def command_of(pid):
    """Title or command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_as(title, pid):
    """Kill a process if it is what its title says even when it can't change any more."""
    try:
        os.kill(pid, signal.SIGSTOP)
        killed = title in command_of(pid)
        os.kill(pid, signal.SIGKILL if killed else signal.SIGCONT)
    except ProcessLookupError:
        return False
    return killed


def wait_until(condition, job, output, *, poll_s=0.02):
    """Wait for what a job does while it runs, and give it; ``output`` tells what the job said."""
    deadline = time.monotonic() + HANG_S
    while not (found := condition()):
        assert job.poll() is None, output()
        if time.monotonic() > deadline:
            job.kill()  # For what it said to have an end.
            raise AssertionError(output())
        # Often enough to meet it in the act, and not so often that it is slowed down.
        time.sleep(poll_s)
    return found


def listening(pids):
    """Addresses that processes listen on, as /proc has them: hexadecimal, without the port."""
    inodes = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):  # it has ended meanwhile
                inodes.add(str(file.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
    ]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}
