"""The last line of a job is the product's, whatever ends its process.

Ray ends a driver that has lost its cluster without a word, and so does a machine whose memory runs
out. So the job runs in a child process, and this one, which loads next to nothing, waits. It passes
signals on, and if the child couldn't say what happened, it does.

It also stands between the child's native code and the terminal: lines of Ray's own log, which mean
nothing to a user and are in the session's folder, aren't passed on.
"""

import ctypes
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_SI_KERNEL = 0x80
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BROKEN_OFF = 1
_END_S = 1.0
"""For what native code has written last."""
_LOG_LINE = re.compile(rb"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ [DIWE] \d+ \d+\] ")
"""Start of a line of Ray's own log, below what ends a process."""
_told: int | None = None
"""Where the child tells what its parent can't know."""


def with_last_word(job: Callable[[], int], *, verb: str) -> int:
    """Run a job in a child process: its exit code, or 1 if it ended without a word.

    To be called before anything starts a thread or loads much: the process is forked.

    Parameters
    ----------
    job
        Prints its last line itself, and returns its exit code.
    """
    if not hasattr(signal, "sigwaitinfo"):
        # Elsewhere than on Linux it isn't told whom a signal was for.
        return job()
    reading, writing = os.pipe()
    native_reading, native_writing = os.pipe()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    parent = os.getpid()
    child = os.fork()
    if not child:
        os.close(reading)
        os.close(native_reading)
        _part_from_native_code(native_writing)
        _be_the_child(job, writing, parent, before)
    os.close(writing)
    os.close(native_writing)
    passing = threading.Thread(target=_pass_on, args=(native_reading,), daemon=True)
    passing.start()
    try:
        status = _wait(child)
        # Processes of Ray that outlive the job may hold its other end.
        passing.join(_END_S)
        with os.fdopen(reading) as told:
            words: dict[str, Any] = {}
            for line in told:
                words |= json.loads(line)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    code = os.waitstatus_to_exitcode(status)
    # With these it ended on a signal before it was a job, see `jobs`.
    if words.get("is_said") or code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return code
    how = _how_it_ended(code, words.get("raised"))
    goes_on = f"the same command {words.get('but', '')}goes on"
    print(
        f"{verb}: error: {how}; what was finished is kept, and {goes_on}",
        file=sys.stderr,
        flush=True,
    )
    return _BROKEN_OFF


def tell_carried_out(flags: Sequence[str]) -> None:
    """Have the last word name flags that the command is to be given without from now on."""
    if flags:
        _tell(but=f"without {', '.join(flags)} ")


def _be_the_child(
    job: Callable[[], int], writing: int, parent: int, mask: Iterable[int]
) -> NoReturn:
    global _told
    _told = writing
    code = _BROKEN_OFF
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(code)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = job()
        _tell(is_said=True)
    except SystemExit as ended:
        # argparse, after its own last line.
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        _tell(is_said=True)
    except BaseException as error:
        # Its traceback helps whoever mends it; the last word is the parent's.
        sys.excepthook(*sys.exc_info())
        _tell(raised=type(error).__name__)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        # Threads and exit handlers of a Ray that is lost would hold it up, or say more.
        os._exit(code)


def _part_from_native_code(writing: int) -> None:
    """Have Python write to stderr as before, and native code into a pipe."""
    stderr = os.dup(2)
    os.dup2(writing, 2)
    os.close(writing)
    sys.stderr = os.fdopen(stderr, "w", buffering=1, errors="backslashreplace")


def _pass_on(reading: int) -> None:
    """Write to stderr what comes through a pipe, without the lines of Ray's log."""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        rest = b""
        while data := pipe.read(65_536):
            *lines, rest = (rest + data).split(b"\n")
            kept = [line + b"\n" for line in lines if not _LOG_LINE.match(line)]
            if kept:
                os.write(2, b"".join(kept))
        if rest and not _LOG_LINE.match(rest):
            os.write(2, rest + b"\n")


def _tell(**words: Any) -> None:
    if _told is not None:
        os.write(_told, f"{json.dumps(words)}\n".encode())


def _wait(child: int) -> int:
    """Pass signals on until the child has ended: its wait status."""
    while True:
        got = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
        if got.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if pid and not os.WIFSTOPPED(status):
                return status
        # A terminal's signal has reached the child, too.
        elif got.si_code != _SI_KERNEL:
            with suppress(ProcessLookupError):
                os.kill(child, got.si_signo)


def _how_it_ended(code: int, raised: str | None) -> str:
    if raised:
        return f"{raised}, an error of this program, whose traceback is above"
    if code == -signal.SIGKILL:
        return "the job's process was killed, as it is where the machine's memory is at its end"
    if code < 0:
        return f"the job's process was ended by {signal.Signals(-code).name}"
    return (
        f"the job's process ended with code {code} and without a word, as Ray ends it when its "
        "head or this machine's part of it is gone"
    )
