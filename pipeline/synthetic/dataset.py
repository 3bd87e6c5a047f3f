"""Synthetic scenes as a dataset on disk: real H.264 files in Kinetics' layouts, and ground truth.

A dataset folder holds ``annotations.csv`` (Kinetics' columns), the clips below ``clips/``, and
``ground_truth.zarr``: per clip the actor's mask in every frame and the window of the action. One
with planted shortcuts has ``planted.json`` too: what was planted in each clip, by its id.
"""

import csv
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.store.objects import CHECKED, note_objects
from pipeline.synthetic.config import SynthesizeConfig
from pipeline.synthetic.rendering import actor_mask, render_frame, rival_mask
from pipeline.synthetic.scenes import Scene
from pipeline.synthetic.shortcuts import PlantedClip, plant, render_planted
from pipeline.synthetic.tasks import Style, class_names, rival_label, task_scene
from pipeline.synthetic.textures import find_textures

ANNOTATIONS_NAME = "annotations.csv"
CLIPS_NAME = "clips"
GROUND_TRUTH_NAME = "ground_truth.zarr"
PLANTED_NAME = "planted.json"

_KINETICS_CLIP_S = 10
"""Kinetics' annotations span 10 s, whatever the length of the file."""


@dataclass(frozen=True)
class Clip:
    """One clip of a dataset: its scene, and where it is on disk."""

    scene: Scene
    video_id: str
    start_s: int
    path: Path
    split: str
    rival: str | None = None
    """Class of the second actor, where there is one."""
    planted: PlantedClip | None = None
    """What was planted, in a dataset of shortcuts."""

    @property
    def label(self) -> str:
        """Class, as the annotations have it."""
        label = self.scene.label if self.planted is None else self.planted.label
        return label.replace("_", " ")

    def frame(self, number: int) -> NDArray[np.uint8]:
        """Render a frame: uint8 (height, width, 3)."""
        if self.planted is not None:
            return render_planted(self.planted, number)
        return render_frame(self.scene, number)

    @property
    def annotation(self) -> dict[str, Any]:
        """Row of Kinetics' annotation CSV."""
        return {
            "label": self.label,
            "youtube_id": self.video_id,
            "time_start": self.start_s,
            "time_end": self.start_s + _KINETICS_CLIP_S,
            "split": self.split,
        }


def write_dataset(config: SynthesizeConfig) -> Iterator[Clip]:
    """Write a dataset; gives each clip once its file and ground truth are written.

    The same configuration writes the same frames.

    Raises
    ------
    ConfigError
        At once, if PyAV isn't installed, or the folder can't be written or holds clips that this
        dataset doesn't have.
    """
    if find_spec("av") is None:
        raise ConfigError("synthetic clips need PyAV: pip install 'staa[evaluation]'")
    out = Path(config.out)
    textures = () if config.textures is None else find_textures(config.textures)
    style = Style(config.n_actors, config.distractors, config.colours, textures)
    if config.task == "shortcuts":
        clips = [
            _planted_clip(config, planted, index)
            for index, planted in enumerate(plant(config.shortcuts, config.canvas))
        ]
    else:
        clips = [_clip(config, style, index) for index in range(config.n_clips)]
    _refuse_other_clips(out, clips)
    ground_truth = out / GROUND_TRUTH_NAME
    try:
        for folder in {clip.path.parent for clip in clips}:
            folder.mkdir(parents=True, exist_ok=True)
        _write_annotations(out / ANNOTATIONS_NAME, clips)
        if config.task == "shortcuts":
            facts = {clip.planted.video_id: clip.planted.facts for clip in clips if clip.planted}
            (out / PLANTED_NAME).write_text(json.dumps(facts, indent=1))
        _create_ground_truth(ground_truth, clips)
    except OSError as error:
        raise ConfigError(f"out: can't write {error.filename or out}: {error.strerror}") from error
    return _write_clips(clips, ground_truth, config.n_workers)


def _refuse_other_clips(out: Path, clips: list[Clip]) -> None:
    """Otherwise a listing of the folder would have clips without annotation and ground truth."""
    expected = {clip.path for clip in clips}
    others = [path for path in (out / CLIPS_NAME).rglob("*.mp4") if path not in expected]
    if others:
        raise ConfigError(
            f"out: {out} holds {len(others)} clips of another dataset, for example "
            f"{min(others).name}: choose another folder, or delete that one"
        )


def _write_annotations(path: Path, clips: list[Clip]) -> None:
    rows = [clip.annotation for clip in clips]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_clips(clips: list[Clip], ground_truth: Path, n_workers: int | None) -> Iterator[Clip]:
    with ProcessPoolExecutor(n_workers) as pool:
        n_clips = len(clips)
        yield from pool.map(_write_clip, clips, range(n_clips), [ground_truth] * n_clips)
    note_objects(zarr.open_group(ground_truth, mode="r+"))


def _clip(config: SynthesizeConfig, style: Style, index: int) -> Clip:
    assert config.task != "shortcuts"
    names = class_names(config.task)
    label = names[index % len(names)]
    scene = task_scene(config.task, config.seed, index, label, config.canvas, style)
    video_id = f"syn{config.seed:03d}{index:05d}"
    rival = None if scene.rival is None else rival_label(scene, config.task)
    start_s = _start_s(index)
    path = _path(config, video_id, start_s, config.split, label)
    return Clip(scene, video_id, start_s, path, config.split, rival)


def _planted_clip(config: SynthesizeConfig, planted: PlantedClip, index: int) -> Clip:
    video_id, start_s = planted.video_id, _start_s(index)
    path = _path(config, video_id, start_s, planted.split, planted.label)
    return Clip(planted.scene, video_id, start_s, path, planted.split, planted=planted)


def _start_s(index: int) -> int:
    return index * 7 % 60


def _path(config: SynthesizeConfig, video_id: str, start_s: int, split: str, label: str) -> Path:
    folder = Path(config.out) / CLIPS_NAME / split
    if config.layout == "class_folders":
        folder /= label.replace("_", " ")
    return folder / f"{video_id}_{start_s:06d}_{start_s + _KINETICS_CLIP_S:06d}.mp4"


def _create_ground_truth(path: Path, clips: list[Clip]) -> None:
    canvas = clips[0].scene.canvas
    group = zarr.create_group(path, overwrite=True)
    n_frames = max(clip.scene.n_frames for clip in clips)
    masks = (len(clips), n_frames, canvas.height, canvas.width)
    of_whom = {"mask": "the actor"}
    if clips[0].scene.rival is not None:
        of_whom["rival_mask"] = "the second actor, where the first isn't in front of it"
    for name, actor in of_whom.items():
        group.create_array(
            name,
            shape=masks,
            chunks=(1, *masks[1:]),
            dtype="bool",
            compressors=CHECKED,
            dimension_names=("clip", "frame", "y", "x"),
            attributes={"description": f"pixels of {actor}; False behind a clip's last frame"},
        )
    columns: dict[str, tuple[list[Any], tuple[str, ...], str]] = {
        "video_id": ([clip.video_id for clip in clips], ("clip",), "str"),
        "action": ([clip.scene.action for clip in clips], ("clip",), "str"),
        "n_frames": ([clip.scene.n_frames for clip in clips], ("clip",), "int32"),
        "fps": ([canvas.fps for _ in clips], ("clip",), "float64"),
        "window": ([clip.scene.evidence_window for clip in clips], ("clip", "edge"), "float64"),
        "label": ([clip.label.replace(" ", "_") for clip in clips], ("clip",), "str"),
    }
    if clips[0].rival is not None:
        columns["rival_label"] = ([clip.rival for clip in clips], ("clip",), "str")
    for name, (values, dims, dtype) in columns.items():
        data = np.asarray(values, np.dtypes.StringDType() if dtype == "str" else dtype)
        array = group.create_array(
            name, shape=data.shape, dtype=dtype, compressors=CHECKED, dimension_names=dims
        )
        array[:] = data


def _write_clip(clip: Clip, index: int, ground_truth: Path) -> Clip:
    scene = clip.scene
    _encode(clip)
    group: Any = zarr.open_group(ground_truth, mode="r+")
    drawn = {"mask": actor_mask} | ({} if scene.rival is None else {"rival_mask": rival_mask})
    for name, mask in drawn.items():
        padded = np.zeros(group[name].shape[1:], np.bool_)
        padded[: scene.n_frames] = [mask(scene, frame) for frame in range(scene.n_frames)]
        group[name][index] = padded
    return clip


def _encode(clip: Clip) -> None:
    import av  # of the extra `evaluation`

    scene, canvas = clip.scene, clip.scene.canvas
    with av.open(clip.path, "w") as container:
        # Otherwise libx264's choices depend on the CPU, and with AVX on memory that it hasn't set.
        options = {"crf": "20", "preset": "veryfast", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=Fraction(canvas.fps), options=options)
        stream.width, stream.height, stream.pix_fmt = canvas.width, canvas.height, "yuv420p"
        # One thread: x264's output depends on their number, and processes share the cores already.
        stream.thread_count = 1
        for frame in range(scene.n_frames):
            picture = av.VideoFrame.from_ndarray(clip.frame(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
