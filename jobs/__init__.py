"""Entry points, one per verb: parse, validate, call, report.

Run as ``staa <verb>`` or ``python -m jobs.<verb>``. At its top a verb's module imports no more than
its configuration, so that ``--help`` and a wrong flag are answered at once; the job imports what it
needs when it runs.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any


def _verb() -> str | None:
    """Verb that this process is for; None where the package is imported by something else."""
    # While Python looks for the module of `-m`, the first argument is the flag itself.
    if sys.argv[:1] == ["-m"]:
        modules = (word.removeprefix("-m").partition(".") for word in sys.orig_argv)
        return next((verb or "staa" for package, _, verb in modules if package == __name__), None)
    if sys.argv and Path(sys.argv[0]).stem == "staa":
        return next((word for word in sys.argv[1:] if not word.startswith("-")), "staa")
    return None


def _leave(signum: int, frame: FrameType | None) -> None:
    word = "interrupted" if signum == signal.SIGINT else "terminated"
    os.write(2, f"{_VERB}: {word}; nothing was started\n".encode())
    # Nothing is there to be cleaned up, and an exception may be swallowed by what is imported.
    os._exit(128 + signum)


_DEFAULTS: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


def _replace(old: dict[int, Any], new: dict[int, Any]) -> None:
    """Change the handlers that are still the old ones; a background job ignores ctrl-C."""
    for signum in _DEFAULTS:
        if signal.getsignal(signum) is old[signum]:
            signal.signal(signum, new[signum])


def hand_over_signals() -> None:
    """Undo what this package does with signals until the job runs."""
    _replace(dict.fromkeys(_DEFAULTS, _leave), _DEFAULTS)


_VERB = _verb()
if _VERB is not None:
    # From here on, ctrl-C and SIGTERM while modules are imported are one line, not a traceback.
    _replace(_DEFAULTS, dict.fromkeys(_DEFAULTS, _leave))
