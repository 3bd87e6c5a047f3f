"""What decoding costs beside libavcodec's own time: ``python -m tests.benchmarks.decoding``.

For each file, CPU seconds of one thread to get 8 uniform frames as RGB, without resizing: by the
product's decoder and by decord, torchcodec, OpenCV and ffmpeg, where they are installed.
All are held against libavcodec alone, which decodes every frame up to the last one that is wanted
and converts none. They take turns in one process (ffmpeg in its own), the best of some counts,
and how many of the frames are those of PyAV reading forward is told beside.

``--views`` measures the views of one file, as 5 x 3, in one pass and one by one.
"""

import argparse
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.clips.decode import Reading, read_frames, read_views
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling, uniform_frame_indices
from pipeline.clips.views import Views, ViewsConfig
from pipeline.status import DecodeError
from tests.support.clips import numbered_frames, write_mp4

N_SAMPLES = 8
MIN_FRAMES = 100
Frames = Sequence[NDArray[np.uint8]]
SYNTHETIC = {
    "h264_b_frames.mp4": {"g": "60", "bf": "3"},
    "h264_one_gop.mp4": {"g": "250", "bf": "3"},
    "h264_no_b_frames.mkv": {"g": "60", "bf": "0"},
    "hevc.mp4": {"codec": "libx265", "x265-params": "log-level=none"},
    "vp9.webm": {"codec": "libvpx-vp9", "cpu-used": "8"},
    "vp8.webm": {"codec": "libvpx", "b": "1M"},
    "av1.mp4": {"codec": "libsvtav1", "preset": "12"},
    "mpeg4.avi": {"codec": "mpeg4", "bf": "0"},
    "mpeg4_b_frames.avi": {"codec": "mpeg4", "bf": "2"},
    "mpeg2.mpg": {"codec": "mpeg2video", "bf": "2"},
    "h264.ts": {"g": "60", "bf": "3"},
    "wmv2.wmv": {"codec": "wmv2"},
}
"""Encoder options of the files that are made, 300 frames of 340 x 256."""


def by_libavcodec(path: Path, data: bytes, positions: list[int]) -> Frames:
    """Decode everything up to the last frame and convert nothing: what others are held against."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.best("video")
        stream.thread_count, stream.thread_type = 1, "NONE"
        for number, _ in enumerate(container.decode(stream)):
            if number == positions[-1]:
                break
    return ()


def by_product(path: Path, data: bytes, positions: list[int]) -> Frames:
    """Decode as a run does."""
    return read_frames(data, Sampling("uniform", N_SAMPLES)).frames


def by_decord(path: Path, data: bytes, positions: list[int]) -> Frames:
    """Decode as a run with ``decoder: decord`` does."""
    return read_frames(data, Sampling("uniform", N_SAMPLES), decoder="decord").frames


def by_torchcodec(path: Path, data: bytes, positions: list[int]) -> Frames:
    """Decode with torchcodec's exact mode, on one thread."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(data, num_ffmpeg_threads=1, dimension_order="NHWC")
    return decoder.get_frames_at(positions).data.numpy()


def by_opencv(path: Path, data: bytes, positions: list[int]) -> Frames:
    """Grab every frame with OpenCV and retrieve those that are wanted."""
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = []
    for number in range(positions[-1] + 1):
        capture.grab()
        if number in positions:
            whole, picture = capture.retrieve()
            if not whole:
                break
            frames.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    return frames


def by_ffmpeg(path: Path, data: bytes, positions: list[int]) -> Frames:
    """Run the ffmpeg program with a filter that selects the frames."""
    chosen = "+".join(f"eq(n\\,{position})" for position in positions)
    command = ["ffmpeg", "-v", "quiet", "-threads", "1", "-i", str(path), "-vf", f"select={chosen}"]
    subprocess.run(
        [*command, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return ()


def _cpu_s() -> float:
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + of_children.ru_utime + of_children.ru_stime


def installed() -> dict[str, Callable[[Path, bytes, list[int]], Frames]]:
    """Ways that this machine has."""
    ways = {"libavcodec": by_libavcodec, "product": by_product, "decord": by_decord}
    for name, way in (("torchcodec.decoders", by_torchcodec), ("cv2", by_opencv)):
        try:
            __import__(name)
        except (ImportError, RuntimeError) as error:
            print(f"without {name}: {str(error).splitlines()[0]}")
        else:
            ways[name.split(".")[0]] = way
    if shutil.which("ffmpeg"):
        ways["ffmpeg"] = by_ffmpeg
    else:
        print("without the ffmpeg program: it isn't installed")
    return ways


def reference(data: bytes) -> list[NDArray[np.uint8]]:
    """Every frame, by PyAV reading forward."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.best("video")
        return [
            np.rot90(frame.to_ndarray(format="rgb24"), k=frame.rotation // 90)
            for frame in container.decode(stream)
        ]


def n_same(frames: Frames, expected: Frames) -> int:
    """Count frames that are the expected ones, to a rounding of colours."""
    return sum(
        frame.shape == wanted.shape and float(np.abs(frame.astype(int) - wanted).mean()) < 2
        for frame, wanted in zip(frames, expected, strict=False)
    )


def measure(path: Path, turns: int) -> dict | None:
    """CPU milliseconds of each way for one file; None for one of too few frames."""
    data = path.read_bytes()
    expected = reference(data)
    if len(expected) < MIN_FRAMES:
        return None
    positions = uniform_frame_indices(n_frames=len(expected), n_samples=N_SAMPLES).tolist()
    wanted = [expected[position] for position in positions]
    del expected
    ways = installed_ways()
    best = dict.fromkeys(ways, float("inf"))
    same = {}
    for _ in range(turns):
        for name, way in ways.items():
            before = _cpu_s()
            try:
                frames = way(path, data, positions)
            except (DecodeError, RuntimeError, OSError) as error:
                best[name], same[name] = float("nan"), type(error).__name__
                continue
            best[name] = min(best[name], (_cpu_s() - before) * 1000)
            same[name] = n_same(frames, wanted) if len(frames) else None
    return {"file": path.name, "n_frames": positions[-1] + 1, "ms": best, "same": same}


_WAYS: dict = {}


def installed_ways() -> dict:
    """`installed`, asked once."""
    if not _WAYS:
        _WAYS.update(installed())
    return _WAYS


def measure_views(path: Path, turns: int) -> dict:
    """CPU milliseconds for 5 x 3 views of a file, in one pass and one by one."""
    data = path.read_bytes()
    views = Views.of_config(
        ViewsConfig(clips=5, crops=3),
        Sampling("strided", 16, stride=4),
        Preprocessing(shortest_edge=224, crop=(224, 224)),
    )
    readings = [Reading(view.sampling, view.preprocessing) for view in views]
    together, alone = float("inf"), float("inf")
    for _ in range(turns):
        before = time.process_time()
        at_once = read_views(data, readings)
        together = min(together, (time.process_time() - before) * 1000)
        before = time.process_time()
        one_by_one = [read_views(data, [reading])[0] for reading in readings]
        alone = min(alone, (time.process_time() - before) * 1000)
    same = all(np.array_equal(a.frames, b.frames) for a, b in zip(at_once, one_by_one, strict=True))
    return {"file": path.name, "one_pass_ms": together, "one_by_one_ms": alone, "same": same}


def main() -> None:
    """Measure the files that are named, and those that are made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--synthetic", action="store_true", help="make files of many kinds, too")
    parser.add_argument("--views", action="store_true", help="measure 5 x 3 views of each file")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="decoding-") as folder:
        files = list(arguments.files)
        if arguments.synthetic:
            frames = numbered_frames(300, height=256, width=340)
            noise = np.random.default_rng(0).integers(-6, 7, frames.shape, np.int16)
            frames = (frames + noise).clip(0, 255).astype(np.uint8)
            files += [write_mp4(Path(folder) / n, frames, **o) for n, o in SYNTHETIC.items()]
        results = []
        for path in files:
            result = (measure_views if arguments.views else measure)(path, arguments.turns)
            if result is None:
                continue
            results.append(result)
            print(json.dumps(result), flush=True)
    if not arguments.views and results:
        for name in installed_ways():
            ratios = [r["ms"][name] / r["ms"]["libavcodec"] for r in results]
            ratios = [ratio for ratio in ratios if np.isfinite(ratio)]
            print(
                f"{name:11} over libavcodec: median {statistics.median(ratios):.2f}, "
                f"{min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} of {len(results)} files"
            )
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
