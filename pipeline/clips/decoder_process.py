"""Decoding in a child process, which a file may hang or take down at the cost of its clip alone.

The parent holds the bytes of a clip and a time limit; the child decodes, resizes and crops, and
sends back what the model sees, which is small. It is a bare Python that loads the decoder, NumPy
and Pillow, in a fifth of a second: neither Ray nor torch, and no fork, which isn't safe beside
their threads. It lives as long as its parent, and what it sends is never unpickled.
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
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.errors import DecodeError
from pipeline.status import Status

DECODE = "pipeline.clips.decode:decode_clip"
"""What the child runs: ``decode(data, sampling, preprocessing)`` gives frames and frame_index."""

N_TRIES = 3
"""Children that a clip may take down: one may have died of something else, such as its memory."""

_START_S = 120.0
"""Only a guard, against a machine on which no child gets ready."""
_WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Before a child that was killed while it started is started again: memory may be free by then."""
_GRACE_S = 10.0
"""For a child that has let go of its connection to say why, and to end with its own code."""
_ENDED = (EOFError, OSError)
"""What a connection raises of a child that has ended: EOFError between two messages, and inside one
a plain OSError."""
_PR_SET_PDEATHSIG = 1
_LOGGER = logging.getLogger(__name__)


class ExpendableDecoder:
    """Decodes one clip at a time in a child process, which is started when there is a clip for it.

    Parameters
    ----------
    decode
        ``module:function`` that the child runs, see `DECODE`; a `DecodeError` that it raises is the
        clip's, and any other exception ends the child.
    memory_bytes
        Memory that the child may take. A clip that wants more mostly is ``CRASHED``, but decoders
        may also tell of it as of a frame that can't be decoded, and not always in the same way.
    """

    def __init__(self, decode: str = DECODE, *, memory_bytes: int) -> None:
        self._decode = decode
        self._memory_bytes = memory_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def decode_into(
        self,
        frames: NDArray[np.uint8],
        data: bytes,
        sampling: Sampling,
        preprocessing: Preprocessing,
        *,
        timeout_s: float,
    ) -> NDArray[np.int64]:
        """Decode, resize and crop a clip.

        Messages are the same however often it is done: how a child ended goes to the log.

        Parameters
        ----------
        frames
            (T, height, width, 3) uint8, contiguous: gets the frames, and is left alone on failure.
        data
            The whole video file.
        timeout_s
            Time that decoding may take; the child's start isn't counted.

        Returns
        -------
        (T,) int64, the frames' positions in the clip.

        Raises
        ------
        DecodeError
            ``TIMEOUT``, and the child was killed; ``CRASHED``, when `N_TRIES` children died of this
            clip; and all that the decoder raises.
        RuntimeError
            When no child gets ready to decode, which is no property of the clip: it ends by itself,
            or is killed each time that it is started.
        ValueError
            When the frames come in another shape than that of ``frames``.
        """
        request = pickle.dumps((sampling, preprocessing))
        with self._lock:
            for attempt in range(1, N_TRIES + 1):
                connection = self._ready_connection()
                try:
                    return self._exchange(connection, frames, request, data, timeout_s)
                except _ENDED:
                    _LOGGER.warning(
                        "the decoder ended with code %s in try %d of %d",
                        self._end(_GRACE_S),
                        attempt,
                        N_TRIES,
                    )
        raise DecodeError(
            Status.CRASHED, f"the decoder took its process down in each of {N_TRIES} tries"
        )

    def close(self) -> None:
        """End the child, if there is one; the next clip starts another."""
        with self._lock:
            self._end()

    def _exchange(
        self,
        connection: Connection,
        frames: NDArray[np.uint8],
        request: bytes,
        data: bytes,
        timeout_s: float,
    ) -> NDArray[np.int64]:
        child = self._child
        assert child is not None
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            child.kill()

        # From a thread, so that the limit holds in whatever the child and this one wait for.
        timer = threading.Timer(timeout_s, stop)
        timer.daemon = True
        timer.start()
        try:
            connection.send_bytes(request)
            connection.send_bytes(data)
            reply = json.loads(connection.recv_bytes())
            if reply["status"] == Status.OK:
                if tuple(reply["shape"]) != frames.shape:
                    raise ValueError(f"frames are {reply['shape']}, expected {list(frames.shape)}")
                frame_index = np.frombuffer(connection.recv_bytes(), np.int64)
                connection.recv_bytes_into(frames.data.cast("B"))
                return frame_index
        except BaseException as error:
            # The child is dead, or owes the rest of an answer that no one waits for any more.
            if timed_out.is_set():
                self._end()
                raise DecodeError(
                    Status.TIMEOUT, f"decoding took longer than {timeout_s:g} s"
                ) from error
            if not isinstance(error, _ENDED):
                self._end()
            raise
        finally:
            timer.cancel()
        raise DecodeError(Status(reply["status"]), reply["message"])

    def _ready_connection(self) -> Connection:
        if self._child is not None and self._child.poll() is not None:
            # Not of this clip: it had answered for the one before.
            self._end()
        if self._connection is not None:
            return self._connection
        # Where memory is short, the child is the first to be killed, also without a clip.
        for wait_s in (*_WAITS_S, None):
            if (started := self._start()) is not None:
                return started
            if wait_s is not None:
                _LOGGER.warning(
                    "the decoder was killed while it started; trying again in %g s", wait_s
                )
                # For memory to get free: at once, the next would be killed as well.
                time.sleep(wait_s)
        raise RuntimeError(
            f"the decoder can't be started: it was killed in each of {len(_WAITS_S) + 1} starts, "
            "as it is where the machine's memory is at its end"
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
            sampling, preprocessing = pickle.loads(connection.recv_bytes())  # noqa: S301 (ours)
            data = connection.recv_bytes()
            try:
                frames, frame_index = decode(data, sampling, preprocessing)
            except DecodeError as error:
                reply = {"status": error.status, "message": error.message}
                connection.send_bytes(json.dumps(reply).encode())
                continue
            connection.send_bytes(json.dumps({"status": Status.OK, "shape": frames.shape}).encode())
            connection.send_bytes(np.ascontiguousarray(frame_index, np.int64).data.cast("B"))
            connection.send_bytes(np.ascontiguousarray(frames).data.cast("B"))


def _die_with_parent() -> None:
    """Be killed when the parent's thread ends, also inside the decoder; Linux has that alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # Rather this process than its parent, where the machine's memory is at its end.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


def _silence_libraries() -> None:
    """Keep stderr for Python: decord quotes there, whole, each file that it can't open."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
