"""Processes that a test started and must kill, found by their environment (Linux)."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

HANG_S = 300
"""Just a guard: what takes this long is stuck."""


def processes_of(ray_folder):
    """Processes of a job and of the Ray that it started."""
    mark = f"RAY_TMPDIR={ray_folder}".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
        except OSError:  # it has ended in the meantime
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
    """Kill a process if its title is this one, checked while it is stopped and can't change."""
    try:
        os.kill(pid, signal.SIGSTOP)
        killed = title in command_of(pid)
        os.kill(pid, signal.SIGKILL if killed else signal.SIGCONT)
    except ProcessLookupError:
        return False
    return killed


def until(condition, *, seconds=20, told=lambda: "it didn't come about"):
    """Wait until a condition is met, and return what it gives; ``told`` says what is there else."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, told()
        # Between two looks, which are cheap.
        time.sleep(0.02)
    return found


def wait_until(condition, job, output, *, poll_s=0.02, hang_s=HANG_S):
    """Wait until a running job meets a condition, and return it; ``output`` gives what the job
    said."""
    deadline = time.monotonic() + hang_s
    while not (found := condition()):
        assert job.poll() is None, output()
        if time.monotonic() > deadline:
            job.kill()  # So that its output ends.
            raise AssertionError(output())
        # Often enough to catch the job in the act, but not so often that it is slowed down.
        time.sleep(poll_s)
    return found


def listening(pids):
    """Addresses on which processes listen, as in /proc: hexadecimal, without the port."""
    inodes = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):  # it has ended in the meantime
                inodes.add(str(file.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
    ]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}
