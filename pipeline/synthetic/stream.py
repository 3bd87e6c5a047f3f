"""One long recording of synthetic scenes, in which a shortcut appears: what a camera might send.

Scenes of the clean twin of `pipeline.synthetic.shortcuts` follow one another, each as long as the
others; from some time on all of them have a cue, such as the logo that a model has learnt for one
class.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.scenes import Canvas
from pipeline.synthetic.shortcuts import Cue, ShortcutConfig, plant, render_planted

STREAM_NAME = "stream.mp4"
"""The recording, in its folder."""


def stream_frames(
    length_s: float, planted_from_s: float, seed: int, canvas: Canvas, cue: Cue = "logo"
) -> Iterator[NDArray[np.uint8]]:
    """Render the frames of a stream: uint8 (height, width, 3) each.

    Parameters
    ----------
    planted_from_s
        From when on the cue is there; at or behind the end for none.
    canvas
        Size and rate, and by its shortest duration the length of a scene.
    """
    scene_s = canvas.min_duration_s
    canvas = replace(canvas, max_duration_s=scene_s)
    n_scenes = int(np.ceil(length_s / scene_s))
    config = ShortcutConfig(n_scenes, seed, n_duplicates=0, n_swapped=0, clean=True)
    left = round(length_s * canvas.fps)
    number = 0
    for clip in plant(config, canvas):
        for frame in range(clip.scene.n_frames):
            if number == left:
                return
            has_cue = number / canvas.fps >= planted_from_s
            yield render_planted(replace(clip, cue=cue if has_cue else "none"), frame)
            number += 1


def write_stream(
    folder: Path, length_s: float, planted_from_s: float, seed: int, canvas: Canvas
) -> Path:
    """Write a stream with a logo as H.264; see `stream_frames`. The file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STREAM_NAME
    write_frames(path, stream_frames(length_s, planted_from_s, seed, canvas), canvas)
    return path


def write_frames(path: Path, frames: Iterable[NDArray[np.uint8]], canvas: Canvas) -> None:
    """Write frames of a canvas, uint8 (height, width, 3) each, as H.264."""
    import av  # of the extra `evaluation`

    with av.open(str(path), "w") as container:
        options = {"crf": "20", "preset": "veryfast", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=Fraction(canvas.fps), options=options)
        stream.width, stream.height, stream.pix_fmt = canvas.width, canvas.height, "yuv420p"
        stream.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
