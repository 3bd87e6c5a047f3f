"""A stand-in for the decoder that fails as the data asks for: few real files hang, and none here.

Runs in a decoder's child, which is given it by name; anything else goes to the real decoder.
"""

import os
import signal
import struct
import sys
from pathlib import Path

import numpy as np

from pipeline.clips.decode import decode_clip

DECODE = "tests.support.stand_ins:fail_as_told"

KILLED_AT_START = "STAND_IN_KILLED_AT_START"
"""Environment variable with a folder: a child kills itself while it starts, as often as there are
files left in there."""


def fail_as_told(data, sampling, preprocessing):
    """Fail as ``STAND-IN <what> [argument]`` says; crash as often as the folder has files."""
    mark, _, told = data.partition(b" ")
    if mark != b"STAND-IN":
        return decode_clip(data, sampling, preprocessing)
    what, _, argument = told.decode().partition(" ")
    if what == "hang":
        while True:
            signal.pause()
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "exit":
        os._exit(3)
    elif what == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "half":
        # The parent gets the length of an answer and its beginning.
        os.write(int(sys.argv[2]), struct.pack("!i", 1000) + b"{")
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "raise":
        raise ZeroDivisionError
    elif what == "allocate":
        np.ones(int(argument), np.uint8)
    elif what == "crash":
        _die_while_files_are_left(argument)
    elif what == "shape":
        return np.zeros((1, 1, 1, 3), np.uint8), np.zeros(1, np.int64)
    frames = np.full((sampling.n_samples, *preprocessing.crop, 3), 7, np.uint8)
    return frames, np.arange(sampling.n_samples)


def _die_while_files_are_left(folder):
    for path in Path(folder).iterdir():
        path.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


if KILLED_AT_START in os.environ:
    _die_while_files_are_left(os.environ[KILLED_AT_START])
