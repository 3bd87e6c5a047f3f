"""Whatever is sampled of a recording, its frames are those of reading it forward."""

import random
import time

import numpy as np
import pytest

from pipeline.clips.containers import demuxer_of
from pipeline.clips.decode import Reading, read_frames, read_views
from pipeline.clips.libav_recording import LibavRecording
from pipeline.clips.recording import ContradictionError
from pipeline.clips.sampling import Sampling
from tests.support.clips import REAL_CLIPS
from tests.support.recordings import KINDS, forward_frames, write_kind

SEED = int(time.time())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recordings")


@pytest.mark.parametrize("name", KINDS)
def test_frames_at_any_positions_are_those_of_reading_forward(folder, name):
    data = write_kind(folder, name).read_bytes()
    expected, _ = forward_frames(data)
    seed = random.Random(SEED)
    print("seed", SEED)
    recording = LibavRecording(data, demuxer_of(data))
    print(
        "planned"
        if recording._order is not None
        else "counted"
        if recording._shown is not None
        else "forward",
        recording.timeline.is_constant,
    )
    n_frames = recording.timeline.n_frames
    assert n_frames == len(expected)
    for size in (1, 2, 3, 5, 8, 20, n_frames):
        positions = sorted(seed.sample(range(n_frames), size))
        frames = list(LibavRecording(data, demuxer_of(data)).frames_at(positions))
        wrong = [
            p for p, f in zip(positions, frames, strict=True) if not np.array_equal(f, expected[p])
        ]
        assert not wrong, positions
