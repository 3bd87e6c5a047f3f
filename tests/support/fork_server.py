"""Commands as children of an interpreter that has imported what they need, for studies of many.

Each command is a process of its own, forked from the server: with its own arguments, output and
exit code, and through the ``__main__`` of its module. A fresh interpreter differs in two things: it
imports while the command goes on, which costs most of the time of a command that only answers, and
it lets native libraries clean up at the end, which wait ten seconds for threads that a fork lacks.
"""

import atexit
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_POLL_S = 0.01
"""Between two looks at a child: waiting for one has no time limit of its own."""


class ForkServer:
    """Runs commands; see `fork_server`."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process = process
        self._folder = folder

    def warm_up(self, command: Sequence[str]) -> None:
        """Run a command, and have the server import what it has imported."""
        code, _, stderr = self.run(command, 600, note_modules=True)
        assert code == 0, stderr

    def run(
        self, command: Sequence[str], timeout_s: float, *, note_modules: bool = False
    ) -> tuple[int | None, str, str]:
        """Exit code (None if it was killed for its time), stdout and stderr of ``python -m``."""
        told = {name: self._folder / name for name in ("stdout", "stderr", "modules")}
        request = {name: str(path) for name, path in told.items()}
        request |= {"command": list(command), "timeout_s": timeout_s, "note_modules": note_modules}
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        code = json.loads(self._process.stdout.readline())
        texts = (told[name].read_text(errors="replace") for name in ("stdout", "stderr"))
        return code, *texts


@contextmanager
def fork_server(folder: Path) -> Iterator[ForkServer]:
    """Start a server, which ends with the block; its files are in a folder."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.fork_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield ForkServer(process, folder)
        assert process.stdin
        process.stdin.close()


def _serve() -> str | None:
    """Answer requests, and return None at their end; in a child, the module to run."""
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            return _become(request)
        code = _exit_code(pid, request["timeout_s"])
        if request["note_modules"]:
            for name in json.loads(Path(request["modules"]).read_text()):
                with suppress(Exception):
                    importlib.import_module(name)
        print(json.dumps(code), flush=True)
    return None


def _become(request: dict[str, Any]) -> str:
    """Be a command: the module to run."""
    os.setpgid(0, 0)
    for number, name in enumerate([os.devnull, request["stdout"], request["stderr"]]):
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    # It stays open for as long as the command runs.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    module, *arguments = request["command"]
    sys.argv = [f"{module.replace('.', '/')}.py", *arguments]
    if request["note_modules"]:
        atexit.register(lambda: Path(request["modules"]).write_text(json.dumps(list(sys.modules))))
    return str(module)


def _exit_code(pid: int, timeout_s: float) -> int | None:
    """Wait for a child; None if it was killed for its time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_POLL_S)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _run(module: str) -> int:
    """Run a module to its end: its exit code."""
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    if _module := _serve():
        os._exit(_run(_module))
