"""Decoding in a child process, which a file may hang or take down at the cost of its clip alone.

The parent holds the bytes of a clip and a time limit; the child decodes, resizes and crops, and
sends back what the model sees, which is small. It is a bare Python that loads the decoder, NumPy
and Pillow, in a fifth of a second: neither Ray nor torch, and no fork, which isn't safe beside
their threads. It lives as long as its parent, and what it sends is never unpickled.

A limit of time is a guess at what hangs. Time in which this process didn't run itself, since the
machine was frozen or the container paused, isn't counted, and a clip that ran into the limit gets a
second try.
"""

import ctypes
import importlib
import json
import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.decode import ClipFrames, Reading
from pipeline.clips.recording import DecoderName
from pipeline.status import DecodeError, Status

DECODE = "pipeline.clips.decode:read_views"
"""What the child runs: ``decode(data, readings, decoder)`` gives what becomes of each."""

N_TRIES = 3
"""Children that a clip may take down: one may have died of something else, such as its memory."""
N_TIMEOUTS = 2
"""Times that a clip may run into the limit: the machine may have been busy, or a disk asleep."""
_STEP_S = 1.0
"""Longest stretch that the limit's clock takes for time in which this process ran itself."""

_START_S = 120.0
"""Only a guard, against a machine on which no child gets ready."""
WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Before a child that was killed while it started is started again: memory may be free by then."""
_GRACE_S = 10.0
"""For a child that has let go of its connection to say why, and to end with its own code."""
_PR_SET_PDEATHSIG = 1
_LOGGER = logging.getLogger(__name__)


class FramesRead(NamedTuple):
    """Which frames were read: positions in the file (T,) int64, and seconds (T,) float64."""

    frame_index: NDArray[np.int64]
    frame_time: NDArray[np.float64]


class ExpendableDecoder:
    """Decodes one clip at a time in a child process, which is started when there is a clip for it.

    Parameters
    ----------
    decode
        ``module:function`` that the child runs, see `DECODE`; a `DecodeError` that it gives is the
        clip's, and any exception ends the child.
    memory_bytes
        Memory that the child may take. A clip that wants more mostly is ``CRASHED``, but decoders
        may also tell of it as of a frame that can't be decoded, and not always in the same way.
    waits_s
        How long to wait before each new start of a child that was killed while it started.
    """

    def __init__(
        self, decode: str = DECODE, *, memory_bytes: int, waits_s: Sequence[float] = WAITS_S
    ) -> None:
        self._decode = decode
        self._memory_bytes = memory_bytes
        self._waits_s = waits_s
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def decode_into(
        self,
        frames: Sequence[NDArray[np.uint8]],
        data: bytes,
        readings: Sequence[Reading],
        *,
        decoder: DecoderName = "pyav",
        timeout_s: float,
    ) -> list[FramesRead | DecodeError]:
        """Decode, resize and crop the views of a clip, in one pass over it.

        Messages are the same however often it is done: how a child ended goes to the log.

        Parameters
        ----------
        frames
            (T, height, width, 3) uint8, contiguous, for each view: gets its frames, and is left
            alone where that fails. Views may be those of several models.
        data
            The whole video file.
        readings
            What is read of it for each view.
        timeout_s
            Time that decoding may take, of which a second counts only if this process ran in it;
            the child's start isn't counted.

        Returns
        -------
        What was read for each view, or its error: all that the decoder gives; ``TIMEOUT`` for all
        of them, when decoding was stopped in each of `N_TIMEOUTS` tries; ``CRASHED``, when
        `N_TRIES` children died of it.

        Raises
        ------
        RuntimeError
            When no child gets ready to decode, which is no property of the clip: it ends by itself,
            or is killed each time that it is started.
        ValueError
            When the frames of a view come in another shape than that of its ``frames``.
        """
        with self._lock:
            try:
                return self._try(frames, data, readings, decoder, timeout_s)
            except DecodeError as error:
                # One of several views may need other frames, and do without what takes it down.
                if error.status is Status.TIMEOUT or len(readings) == 1:
                    return [error] * len(readings)
            outcomes: list[FramesRead | DecodeError] = []
            for view, reading in enumerate(readings):
                try:
                    outcomes += self._try(
                        frames[view : view + 1], data, [reading], decoder, timeout_s
                    )
                except DecodeError as error:
                    outcomes.append(error)
            return outcomes

    def _try(
        self,
        frames: Sequence[NDArray[np.uint8]],
        data: bytes,
        readings: Sequence[Reading],
        decoder: DecoderName,
        timeout_s: float,
    ) -> list[FramesRead | DecodeError]:
        request = pickle.dumps((tuple(readings), decoder))
        n_crashes = n_timeouts = 0
        while True:
            connection = self._ready_connection()
            try:
                return self._exchange(connection, frames, request, data, timeout_s)
            except (EOFError, ConnectionError) as error:
                n_crashes += 1
                _LOGGER.warning(
                    "the decoder ended with code %s in try %d of %d",
                    self._end(_GRACE_S),
                    n_crashes,
                    N_TRIES,
                )
                if n_crashes == N_TRIES:
                    raise DecodeError(
                        Status.CRASHED,
                        f"the decoder took its process down in each of {N_TRIES} tries",
                    ) from error
            except TimeoutError as error:
                n_timeouts += 1
                if n_timeouts == N_TIMEOUTS:
                    raise DecodeError(
                        Status.TIMEOUT,
                        f"decoding took longer than {timeout_s:g} s in each of {N_TIMEOUTS} tries",
                    ) from error

    def close(self) -> None:
        """End the child, if there is one; the next clip starts another."""
        with self._lock:
            self._end()

    def _exchange(
        self,
        connection: Connection,
        frames: Sequence[NDArray[np.uint8]],
        request: bytes,
        data: bytes,
        timeout_s: float,
    ) -> list[FramesRead | DecodeError]:
        child = self._child
        assert child is not None
        done, timed_out = threading.Event(), threading.Event()

        def stop_when_over() -> None:
            if not _ran_for(timeout_s, done):
                return
            timed_out.set()
            child.kill()

        # From a thread, so that the limit holds in whatever the child and this one wait for.
        threading.Thread(target=stop_when_over, daemon=True).start()
        try:
            connection.send_bytes(request)
            connection.send_bytes(data)
            replies = json.loads(connection.recv_bytes())
            return [
                self._receive(connection, reply, frames[view]) for view, reply in enumerate(replies)
            ]
        except BaseException as error:
            # The child is dead, or owes the rest of an answer that no one waits for any more.
            if timed_out.is_set():
                self._end()
                raise TimeoutError from error
            # multiprocessing has no class of its own for an end within a message.
            if type(error) is OSError:
                raise EOFError from error
            if not isinstance(error, EOFError | ConnectionError):
                self._end()
            raise
        finally:
            done.set()

    @staticmethod
    def _receive(
        connection: Connection, reply: dict[str, Any], frames: NDArray[np.uint8]
    ) -> FramesRead | DecodeError:
        """Take what comes behind the reply for a view."""
        if reply["status"] != Status.OK:
            return DecodeError(Status(reply["status"]), reply["message"])
        if tuple(reply["shape"]) != frames.shape:
            raise ValueError(f"frames are {reply['shape']}, expected {list(frames.shape)}")
        frame_index = np.frombuffer(connection.recv_bytes(), np.int64)
        frame_time = np.frombuffer(connection.recv_bytes(), np.float64)
        connection.recv_bytes_into(frames.data.cast("B"))
        return FramesRead(frame_index, frame_time)

    def _ready_connection(self) -> Connection:
        if self._child is not None and self._child.poll() is not None:
            # Not of this clip: it had answered for the one before.
            self._end()
        if self._connection is not None:
            return self._connection
        # Where memory is short, the child is the first to be killed, also without a clip.
        for wait_s in (*self._waits_s, None):
            if (started := self._start()) is not None:
                return started
            if wait_s is not None:
                _LOGGER.warning(
                    "the decoder was killed while it started; trying again in %g s", wait_s
                )
                # For memory to get free: at once, the next would be killed as well.
                time.sleep(wait_s)
        raise RuntimeError(
            "the decoder can't be started: it was killed in each of "
            f"{len(self._waits_s) + 1} starts, as it is where the machine's memory is at its end"
        )

    def _start(self) -> Connection | None:
        """Start a child: its connection once it is ready, or None if it was killed before."""
        ours, theirs = Pipe()
        with theirs:
            arguments = (self._decode, str(theirs.fileno()), str(self._memory_bytes))
            self._child = subprocess.Popen(  # noqa: S603 (its arguments are ours)
                # -P: no module is taken from the folder that happens to be the current one.
                [sys.executable, "-P", "-m", "pipeline.clips.decoder_process", *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=os.environ
                | {
                    "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
                    # It multiplies no matrices, and a pool of threads for that takes memory.
                    "OPENBLAS_NUM_THREADS": "1",
                },
            )
        self._connection = ours
        try:
            if not ours.poll(_START_S):
                raise RuntimeError(f"the decoder wasn't ready after {_START_S:g} s")
            ours.recv_bytes()
        except EOFError as error:
            code = self._end(_GRACE_S)
            if code == -signal.SIGKILL:
                return None
            raise RuntimeError(
                f"the decoder can't be started: it ended with code {code}, for a reason that "
                "this process's log gives"
            ) from error
        except BaseException:
            self._end()
            raise
        return ours

    def _end(self, grace_s: float = 0) -> int | None:
        """End the child, if there is one: its exit code, negative for a signal."""
        child, connection = self._child, self._connection
        self._child = self._connection = None
        if connection is not None:
            connection.close()
        if child is None:
            return None
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
        child.kill()
        return child.wait()


@cache
def process_decoder(decode: str, memory_bytes: int) -> ExpendableDecoder:
    """Return this process's one decoder of the kind, whose child goes on from batch to batch."""
    return ExpendableDecoder(decode, memory_bytes=memory_bytes)


def _serve(decode_name: str, file_number: int, memory_bytes: int) -> None:
    """Be the child: answer until the parent closes its end, or is gone."""
    _die_with_parent()
    # The parent says when it's enough.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    # What it held would be written to disk each time that it crashes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module, _, function = decode_name.partition(":")
    decode = getattr(importlib.import_module(module), function)
    _silence_libraries()
    with Connection(file_number) as connection, suppress(EOFError, ConnectionError):
        connection.send_bytes(b"ready")
        while True:
            readings, decoder = pickle.loads(connection.recv_bytes())  # noqa: S301 (ours)
            outcomes = decode(connection.recv_bytes(), readings, decoder)
            connection.send_bytes(json.dumps([_reply(outcome) for outcome in outcomes]).encode())
            for outcome in outcomes:
                if isinstance(outcome, ClipFrames):
                    for column, dtype in (("frame_index", np.int64), ("frame_time", np.float64)):
                        values = np.ascontiguousarray(getattr(outcome, column), dtype)
                        connection.send_bytes(values.data.cast("B"))
                    connection.send_bytes(np.ascontiguousarray(outcome.frames).data.cast("B"))


def _reply(outcome: ClipFrames | DecodeError) -> dict[str, Any]:
    if isinstance(outcome, DecodeError):
        return {"status": outcome.status, "message": outcome.message}
    return {"status": Status.OK, "shape": outcome.frames.shape}


def _ran_for(seconds: float, done: threading.Event) -> bool:
    """Wait until this process has run for some time: whether that came before ``done``.

    Where a wait of a second took longer, the machine was frozen, or too busy to run this process,
    and so the child.
    """
    ran_s, before = 0.0, time.monotonic()
    while ran_s < seconds:
        if done.wait(min(_STEP_S, seconds - ran_s)):
            return False
        now = time.monotonic()
        ran_s += min(now - before, _STEP_S)
        before = now
    return not done.is_set()


def _die_with_parent() -> None:
    """Be killed when the parent's thread ends, also inside the decoder; Linux has that alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # Rather this process than its parent, where the machine's memory is at its end.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


def _silence_libraries() -> None:
    """Keep stderr for Python: decoders quote there, whole, each file that it can't open."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
