import av
import numpy as np

from pipeline.synthetic.scenes import Canvas
from pipeline.synthetic.shortcuts import ShortcutConfig, cue_mask, plant
from pipeline.synthetic.stream import stream_frames, write_stream

CANVAS = Canvas(96, 64, 5, 1.0, 2.0)


def test_the_logo_is_there_from_its_time_on_and_nowhere_else():
    clean = np.stack(list(stream_frames(4.0, 9.0, 3, CANVAS)))
    planted = np.stack(list(stream_frames(4.0, 2.0, 3, CANVAS)))
    assert clean.shape == planted.shape == (20, 64, 96, 3)
    assert np.array_equal(clean[:10], planted[:10])
    (clip, *_) = plant(ShortcutConfig(4, 3, n_duplicates=0, n_swapped=0), CANVAS)
    from dataclasses import replace

    where = cue_mask(replace(clip, cue="logo"), 0)
    differs = (clean[10:] != planted[10:]).any(axis=(0, 3))
    assert differs[where].all()
    assert not differs[~where].any()


def test_a_stream_is_a_recording_of_its_length(tmp_path):
    path = write_stream(tmp_path / "s", 3.0, 1.0, 0, CANVAS)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 15
    assert (frames[0].width, frames[0].height) == (96, 64)
