"""One long recording of synthetic scenes, in which a shortcut appears: what a camera might send.

Scenes of the clean twin of `pipeline.synthetic.shortcuts` follow one another, each as long as the
others; from some time on all of them have the logo that a model has learnt for one class.
"""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.scenes import Canvas
from pipeline.synthetic.shortcuts import ShortcutConfig, plant, render_planted

STREAM_NAME = "stream.mp4"
"""The recording, in its folder."""


def stream_frames(
    length_s: float, planted_from_s: float, seed: int, canvas: Canvas
) -> Iterator[NDArray[np.uint8]]:
    """Render the frames of a stream: uint8 (height, width, 3) each.

    Parameters
    ----------
    planted_from_s
        From when on there is a logo; at or behind the end for none.
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
            has_logo = number / canvas.fps >= planted_from_s
            yield render_planted(replace(clip, cue="logo" if has_logo else "none"), frame)
            number += 1


def write_stream(
    folder: Path, length_s: float, planted_from_s: float, seed: int, canvas: Canvas
) -> Path:
    """Write a stream as H.264; see `stream_frames`. The file's path."""
    import av  # of the extra `evaluation`

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STREAM_NAME
    with av.open(str(path), "w") as container:
        options = {"crf": "20", "preset": "veryfast", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=Fraction(canvas.fps), options=options)
        stream.width, stream.height, stream.pix_fmt = canvas.width, canvas.height, "yuv420p"
        stream.thread_count = 1
        for image in stream_frames(length_s, planted_from_s, seed, canvas):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path
