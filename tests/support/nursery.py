"""Commands all of whose processes, even daemons, end with the block that ran them.

They run below a process that inherits whatever they leave behind and kills it when its input is
closed, even if the tests themselves are killed.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HANG_S = 300
"""Just a guard: what takes this long is stuck."""

_READY = "ready\n"
_PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def nursery(
    commands: Sequence[Sequence[str]], *, environment: Mapping[str, str], log: Path
) -> Iterator[None]:
    """Run commands one after the other; what they start lives until the block ends."""
    with log.open("w") as stream:
        keeper = subprocess.Popen(
            [sys.executable, __file__, json.dumps(commands)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            env=environment,
            text=True,
            # Ctrl-C is meant for the tests, which then close the input.
            start_new_session=True,
        )
    try:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == _READY, log.read_text()
        yield
    finally:
        keeper.communicate(timeout=2 * HANG_S)
    assert keeper.returncode == 0, log.read_text()


def parent_of(pid: int) -> int:
    """Parent of a process; `OSError` if the process has ended."""
    # The name before these fields may hold spaces and brackets.
    _state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(parent)


def _keep(commands: Sequence[Sequence[str]]) -> None:
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError("prctl: orphans can't be inherited")
    try:
        for command in commands:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                # Not the pipe, as daemons would hold it open.
                stdout=sys.stderr,
                timeout=HANG_S,
                check=True,
            )
        sys.stdout.write(_READY)
        sys.stdout.flush()
        sys.stdin.read()
    finally:
        _kill_descendants()


def _kill_descendants() -> None:
    """Kill children until there are none: children of the killed become this process's."""
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _children() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        try:
            if parent_of(pid) == os.getpid():
                found.append(pid)
        except OSError:
            continue
    return found


if __name__ == "__main__":
    _keep(json.loads(sys.argv[1]))
