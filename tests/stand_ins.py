"""A stand-in for the decoder that fails as the data asks for: few real files hang, and none here.

Runs in a decoder's child, which is given it by name; anything else goes to the real decoder.
"""

import os
import signal
from pathlib import Path

import numpy as np

from pipeline.decode import decode_clip

DECODE = "tests.stand_ins:fail_as_told"


def fail_as_told(data, sampling, preprocessing):
    """Fail as ``STAND-IN <what> [argument]`` says."""
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
    elif what == "raise":
        raise ZeroDivisionError
    elif what == "allocate":
        np.ones(int(argument), np.uint8)
    elif what == "crash":
        # As often as there are files left in the folder that it is told of.
        for path in Path(argument).iterdir():
            path.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    elif what == "shape":
        return np.zeros((1, 1, 1, 3), np.uint8), np.zeros(1, np.int64)
    frames = np.full((sampling.n_samples, *preprocessing.crop, 3), 7, np.uint8)
    return frames, np.arange(sampling.n_samples)
