"""Command lines from pydantic models: flags, a YAML file, errors on one line, exit codes."""

import argparse
import logging
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    CliSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from jobs import hand_over_signals
from jobs.last_word import tell_carried_out, with_last_word
from jobs.settings import (
    check_given_once,
    described,
    flag,
    merge,
    read_settings,
    spelled_out,
    with_suggestion,
)
from pipeline.base_config import FrozenConfig
from pipeline.errors import (
    ConfigError,
    ManifestChangedError,
    RunMismatchError,
    StaaError,
    StorageError,
    StoreGoneError,
    reason_of,
)
from pipeline.run.config import FOR_ONE_CALL
from pipeline.text import LINE_LENGTH, one_line, without_credentials

if TYPE_CHECKING:
    from pipeline.store.lease import Lease
    from pipeline.store.opening import Store

Config = TypeVar("Config", bound=BaseModel)

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after ctrl-C, as shells have it."""
TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM, which `kill`, `ray job stop` and Kubernetes send."""
NOBODY_READS = 128 + signal.SIGPIPE
"""Exit code where nobody reads any more what is printed, as shells have it."""
BROKEN_OFF = 1
"""Exit code where a storage couldn't be reached, or the manifest didn't stay: a later command may
succeed, and what was finished is kept."""
BAD_INPUT = 2
"""Exit code of a bad argument, config or input file."""
_MISMATCH_LENGTH = 2_000


def run_job(
    config_class: type[Config],
    job: Callable[[Config], int],
    *,
    verb: str,
    keeps: bool = False,
    apart: Callable[[Config], bool] = lambda config: False,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line, run the job, and return its exit code.

    A `StaaError` becomes one line on stderr and exit code 2, a `StorageError` or a
    `ManifestChangedError` one and exit code 1.

    Parameters
    ----------
    keeps
        Whether a job that was broken off keeps what it has finished.
    apart
        Whether the job is to run in a process of its own, see `jobs.last_word`.
    """
    configs: list[Config] = []

    def read() -> int:
        configs.append(parse(config_class, verb=verb, argv=sys.argv[1:] if argv is None else argv))
        return 0

    if refused := _told(read, verb=verb, keeps=keeps):
        return refused
    (config,) = configs
    run = partial(_told, partial(job, config), verb=verb, keeps=keeps)
    return with_last_word(run, verb=verb) if apart(config) else run()


def _told(step: Callable[[], int], *, verb: str, keeps: bool) -> int:
    """Exit code of a step of a job, whose errors are told on one line."""
    kept = "; what was finished is kept" if keeps else ""
    try:
        with _terminated_by_exception():
            try:
                exit_code = step()
            except SystemExit:
                # Behind the text of --help.
                sys.stdout.flush()
                raise
            sys.stdout.flush()
            return exit_code
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        # As by `| head`: what else would be printed goes nowhere, and no word is lost about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    except KeyboardInterrupt:
        _leave_unawaited()
        print(f"{verb}: interrupted{kept}", file=sys.stderr)
        return INTERRUPTED
    except _Terminated:
        _leave_unawaited()
        print(f"{verb}: terminated{kept}", file=sys.stderr)
        return TERMINATED
    except ManifestChangedError as error:
        _print_error(verb, error, kept)
        return BROKEN_OFF
    except StaaError as error:
        _print_error(verb, error)
        return BAD_INPUT
    except StorageError as error:
        _print_error(verb, error, f"; {_how_to_go_on(error, keeps)}")
        return BROKEN_OFF


def parse(config_class: type[Config], *, verb: str, argv: Sequence[str]) -> Config:
    """Read a configuration from ``--config FILE`` (YAML) and flags; a flag wins over the file.

    Raises
    ------
    ConfigError
        Names each key that is wrong, its value and what is expected; or a key of the file that is
        for one call.
    """
    file_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    file_parser.add_argument("--config")
    argv = spelled_out(argv, config_class)
    check_given_once(argv, config_class)
    try:
        known, flags = file_parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from error

    # The class to derive from is known only as the program runs, which types can't say.
    class Settings(BaseSettings, config_class):  # type: ignore[misc, valid-type]
        model_config = SettingsConfigDict(
            cli_prog_name=_program(verb),
            cli_kebab_case=True,
            cli_avoid_json=True,
            cli_hide_none_type=True,
            cli_implicit_flags=True,
            cli_exit_on_error=False,
        )

    Settings.__doc__ = (
        f"{config_class.__doc__}\n\n--config FILE reads options from YAML; a flag wins."
    )
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(Settings, cli_parse_args=flags)
        given = source()
    except SettingsError as error:
        reason = str(error).removeprefix("error parsing CLI: ")
        raise ConfigError(with_suggestion(reason, flags, config_class)) from error
    except RecursionError as error:
        raise ConfigError("a flag's value is nested too deeply") from error
    values = read_settings(known.config) if known.config is not None else {}
    if kept := [name for name in FOR_ONE_CALL if name in values and name in Settings.model_fields]:
        raise ConfigError(
            f"config: {known.config} has {kept[0]}, which is for one call: give it as a flag, "
            f"{flag(kept[0])}"
        )
    try:
        return config_class.model_validate(merge(config_class, values, given))
    except ValidationError as error:
        raise ConfigError(described(error, config_class)) from error


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader is gone."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):
        return False


def _program(verb: str) -> str:
    """Name of the command as it was called."""
    return f"staa {verb}" if Path(sys.argv[0]).stem == "staa" else f"python -m jobs.{verb}"


class RunWriter(FrozenConfig):
    """Options of a job that writes into a run's folder."""

    run: CliPositionalArg[str]
    """Folder of the run, any fsspec URL."""
    take_over: bool = False
    """Go on although somebody else seems to be working on the run, who then stops writing; whoever
    has ended without a word is taken over without it, after a minute at most."""


@contextmanager
def owned_run(config: RunWriter, verb: str) -> Iterator[tuple["Store", "Lease"]]:
    """Hold the lease of a run that is there, while open: gives its store and the lease.

    Raises
    ------
    StoreError
        If there is no run; nothing is written then.
    LeaseError
        If somebody else is working on it.
    """
    from pipeline.store.lease import leased
    from pipeline.store.opening import open_store
    from pipeline.store.run_folder import store_url

    # Where no run is, nothing is written. It is opened again, as its rows may be more by then.
    open_store(store_url(config.run), mode="r+")
    with leased(config.run, verb=verb, take_over=config.take_over) as lease:
        yield open_store(store_url(config.run), mode="r+"), lease


class _MidwayError(StorageError):
    """A storage stayed away when ``done`` was: flags for one call, or none were given."""

    def __init__(self, error: StorageError, done: str) -> None:
        super().__init__(str(error))
        self.done = done


def _how_to_go_on(error: StorageError, keeps: bool) -> str:
    """Say what is left of a job, and what the same command would do."""
    done = error.done if isinstance(error, _MidwayError) else ""
    command = f"the same command{f' without {done}' if done else ''}"
    if isinstance(error, StoreGoneError) or isinstance(error.__cause__, StoreGoneError):
        return f"nothing of the run is left, and {command} starts it over"
    if not keeps:
        return f"{command} may succeed later"
    return f"what was finished is kept, and {command} goes on"


@contextmanager
def flags_carried_out(config: BaseModel) -> Iterator[None]:
    """While open, a storage that stays away doesn't lead to flags for one call being given again.

    Before, it does: nothing is computed yet that they would undo, and they may not be carried out.
    """
    given = [flag(name) for name in FOR_ONE_CALL if getattr(config, name, None)]
    tell_carried_out(given)
    try:
        yield
    except StorageError as error:
        raise _MidwayError(error, ", ".join(given)) from error


def listen_on_loopback() -> None:
    """Have a Ray that is started here listen on loopback alone; called before it is loaded."""
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _leave_unawaited() -> None:
    """Keep asyncio from telling, behind our last line, of requests that nobody waits for now."""
    logging.getLogger("asyncio").disabled = True
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")


class _Terminated(BaseException):
    """SIGTERM; like KeyboardInterrupt, not for those who handle errors."""


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """While open, SIGTERM is raised as an exception, so that what was started is stopped."""

    def terminate(signum: int, frame: FrameType | None) -> None:
        # It may come twice, of a process group and of `jobs.last_word`.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    # Python sets handlers in the main thread alone.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hand_over_signals()
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def writing(key: str, url: str) -> Iterator[None]:
    """Name the key of a target that can't be written, in place of a traceback.

    Raises
    ------
    ConfigError
        When the storage refuses, or no driver of its protocol is known.
    """
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{key}: can't write {url}: {reason_of(error)}") from error


def _print_error(verb: str, error: Exception, then: str = "") -> None:
    """Say it on one line, whatever reason a library gave, and with no credentials of a URL."""
    start = f"{verb}: error: "
    # Every difference from another run is told, with the digests by which both are found.
    most = _MISMATCH_LENGTH if isinstance(error, RunMismatchError) else LINE_LENGTH
    room = most - len(start) - len(then)
    print(start + one_line(without_credentials(str(error)), at_most=room) + then, file=sys.stderr)
