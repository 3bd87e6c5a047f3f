"""A simulated feed: moving pictures with maps that follow them, as an engine would give them."""

import threading
import time

import numpy as np

from pipeline.stream.explained import Explained, Picture, SourceState, StreamStatus

HOSTILE = (
    '<img src=x onerror="alert(1)">',
    "</script><script>alert(2)</script>",
    "a/b?c#d&e %2e%2e",
    "\u202egnirts",
)
"""Names that try to be markup, a path, or to turn the text around."""
GRID = (4, 7, 7)
CLASSES = ("wave", "brush hair", "kick ball")


def explained(stream, window=0, *, top=None, seed=0, hop_s=1.0, age_s=0.0, peak=None):
    """A window of 8 frames over 2 s, with attention at a place that moves from window to window."""
    random = np.random.default_rng((seed, window))
    n_steps, height, width = GRID
    y, x = np.mgrid[:height, :width]
    row, column = peak or (window % height, (2 * window) % width)
    spatial = np.exp(-((y - row) ** 2 + (x - column) ** 2) / 3)[None] + 0.05 * random.random(GRID)
    temporal = random.dirichlet(np.full(n_steps, 3))
    start_s = window * hop_s
    return Explained(
        stream=stream,
        window=window,
        start_s=start_s,
        end_s=start_s + 2,
        frame_time_s=start_s + np.arange(8) / 4 + 0.125,
        spatial=(spatial / spatial.sum(axis=(1, 2), keepdims=True)).astype(np.float32),
        temporal=temporal.astype(np.float32),
        top=top or ((CLASSES[window // 12 % 3], 0.71), (CLASSES[(window // 12 + 1) % 3], 0.2)),
        newest_frame_s=time.monotonic() - age_s,
        n_skipped=window // 9,
        n_frames_dropped=0,
    )


def picture(stream, time_s=0.0, *, height=180, width=320, seed=0):
    """A gradient with a bright square that goes across in 8 s."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([60 + y // 3, 50 + x // 5, 90 + 20 * (seed % 5) + 0 * x], axis=-1)
    left = int((time_s % 8) / 8 * (width - 30))
    top = height // 2 - 15 + int(30 * np.sin(time_s + seed))
    image[top : top + 30, left : left + 30] = (240, 200, 90)
    return Picture(stream, float(time_s), image.astype(np.uint8))


def status(stream, state=SourceState.LIVE, reason="", *, windows=0, skipped=0, rate=1.0):
    return StreamStatus(stream, state, reason, 0.4, windows, skipped, rate)


class Feed:
    """Feeds a viewer from a thread: 10 pictures a second, a window each ``hop_s``."""

    def __init__(self, viewer, streams, *, hop_s=0.25, pictures_per_s=10):
        self._viewer, self._streams = viewer, streams
        self._hop_s, self._interval_s = hop_s, 1 / pictures_per_s
        self._end = threading.Event()
        self.error = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()
        assert self.error is None

    def _run(self):
        began, n_windows = time.monotonic(), 0
        try:
            while not self._end.wait(self._interval_s):
                now = time.monotonic() - began
                for seed, stream in enumerate(self._streams):
                    self._viewer.picture(picture(stream, now + 2.3, seed=seed))
                if now >= n_windows * self._hop_s:
                    for seed, stream in enumerate(self._streams):
                        self._viewer.shown(
                            explained(stream, n_windows, seed=seed, hop_s=self._hop_s, age_s=0.3)
                        )
                        self._viewer.status(status(stream, windows=n_windows, rate=1 / self._hop_s))
                    n_windows += 1
        except Exception as error:
            self.error = error
