"""A stand-in for the decoder that fails as the data says: few real files hang, and none of ours.

It runs in a decoder's child, which gets its name; other data goes to the real decoder.
"""

import os
import signal
import struct
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.clips.decode import ClipFrames, read_views

DECODE = "tests.support.stand_ins:fail_as_told"

KILLED_AT_START = "STAND_IN_KILLED_AT_START"
"""Environment variable with a folder: as long as files are left in it, a child that starts kills
itself."""


def fail_as_told(data, readings, decoder):
    """Fail as ``STAND-IN <what> [argument]`` says; crash as often as the folder has files."""
    mark, _, told = data.partition(b" ")
    if mark != b"STAND-IN":
        return read_views(data, readings, decoder)
    what, _, argument = told.decode().partition(" ")
    if what == "hang":
        while True:
            signal.pause()
    elif what == "hang-while":
        for path in Path(argument).iterdir():
            path.unlink()
            time.sleep(1000)
    elif what == "exit-for" and int(argument) in [r.sampling.n_samples for r in readings]:
        os._exit(3)
    elif what == "hang-for" and int(argument) in [r.sampling.n_samples for r in readings]:
        time.sleep(1000)
    elif what == "sleep":
        time.sleep(float(argument))
    elif what == "hang-beyond" and len(readings) > int(argument):
        time.sleep(1000)
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "exit":
        os._exit(3)
    elif what == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "half":
        # The parent gets an answer's length and only its beginning.
        os.write(int(sys.argv[2]), struct.pack("!i", 1000) + b"{")
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "raise":
        raise ZeroDivisionError
    elif what == "allocate":
        np.ones(int(argument), np.uint8)
    elif what == "crash":
        _die_while_files_are_left(argument)
    elif what == "shape":
        return [_clip(1, (1, 1))]
    return [_clip(reading.sampling.n_samples, reading.preprocessing.crop) for reading in readings]


def _clip(n_frames, size):
    frames = np.full((n_frames, *size, 3), 7, np.uint8)
    return ClipFrames(frames, np.arange(n_frames), np.arange(n_frames) / 10, 10.0, n_frames)


def _die_while_files_are_left(folder):
    for path in Path(folder).iterdir():
        path.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


if KILLED_AT_START in os.environ:
    _die_while_files_are_left(os.environ[KILLED_AT_START])
