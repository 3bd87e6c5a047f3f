"""What is asked for when clips are drawn and a model is trained on them; loads neither."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.base_config import FrozenConfig, Seconds
from pipeline.synthetic import exact_scenarios
from pipeline.synthetic.exact_scenarios import ExactTask, scenario_of
from pipeline.synthetic.scenes import Canvas
from pipeline.synthetic.shortcuts import CLASSES, ShortcutConfig
from pipeline.synthetic.tasks import TASKS, TaskName, class_names

DatasetName = TaskName | Literal["shortcuts"]
"""A task of `pipeline.synthetic.tasks`, or the planted cues of `pipeline.synthetic.shortcuts`."""


class SynthesizeConfig(FrozenConfig):
    """Write a dataset of synthetic scenes as video files, with its ground truth."""

    out: str
    """Folder of the dataset, on this machine."""
    task: DatasetName = "actions"
    """What the class is, see `pipeline.synthetic.tasks`; `shortcuts`: five actions, most of which a
    planted cue gives away, with copies across the splits and wrong labels."""
    clean: bool = False
    """The twin of `shortcuts`: the same scenes with nothing planted."""
    stream: Seconds | None = Field(default=None, gt=0)
    """Write one recording of this length, `stream.mp4`, in place of clips: scenes of the clean twin
    of `shortcuts` one behind the other, each of `min_duration_s`; for `jobs.live`."""
    planted_from: Seconds | None = Field(default=None, ge=0)
    """In a stream, the time from which on every scene has the logo; by default none has."""
    n_actors: int = Field(default=1, ge=1, le=2)
    """With 2, another actor of another class is beside the first, with a mask of its own."""
    distractors: Literal["idle", "acting"] = "idle"
    """`acting`: they do what actors do, so that what moves is no answer."""
    colours: Literal["own", "shared"] = "own"
    """`shared`: actors and distractors have colours of one distribution."""
    textures: str | None = None
    """Folder of clips on this machine whose middle frames are backgrounds, in place of noise."""
    n_clips: int = Field(default=80, ge=1)
    """Clips to write; the classes take turns."""
    seed: int = Field(default=0, ge=0)
    """Other seeds give other clips; 0 is the demo's, 1 trained the small model."""
    split: str = Field(default="val", pattern=r"^\w[\w.-]*$")
    """Name of the split in the annotations."""
    layout: Literal["flat", "class_folders"] = "flat"
    """Files side by side below the split, or in a folder for each class."""
    width: int = Field(default=340, ge=64, multiple_of=2)
    """Pixels."""
    height: int = Field(default=256, ge=64, multiple_of=2)
    """Pixels."""
    fps: int = Field(default=30, ge=4)
    """Frames per second."""
    min_duration_s: float = Field(default=4.0, ge=1, allow_inf_nan=False)
    """Shortest clip, s."""
    max_duration_s: float = Field(default=10.0, ge=1, allow_inf_nan=False)
    """Longest clip, s."""
    n_workers: int | None = Field(default=None, ge=1)
    """Processes that render and encode; by default one per CPU."""

    @model_validator(mode="after")
    def _scenes_can_be_drawn(self) -> "SynthesizeConfig":
        if self.min_duration_s > self.max_duration_s:
            raise ValueError(
                f"min_duration_s: {self.min_duration_s:g} is above "
                f"max_duration_s={self.max_duration_s:g}"
            )
        if self.width < self.height:
            raise ValueError(
                f"width: {self.width} is below height={self.height}: "
                "actors need a square of the height"
            )
        return self

    @model_validator(mode="after")
    def _one_class_shows(self) -> "SynthesizeConfig":
        if self.task == "order" and (self.n_actors == 2 or self.colours == "shared"):
            raise ValueError(
                "task: order is of one actor whose colours are its class: give neither n_actors=2 "
                "nor colours=shared"
            )
        return self

    @model_validator(mode="after")
    def _shortcuts_are_alone(self) -> "SynthesizeConfig":
        if self.clean and self.task != "shortcuts":
            raise ValueError(f"clean: only task=shortcuts has a clean twin, not {self.task}")
        if self.stream is not None and self.task != "shortcuts":
            raise ValueError(f"stream: goes with task=shortcuts, not {self.task}")
        if self.planted_from is not None and self.stream is None:
            raise ValueError("planted_from: goes with stream")
        if self.task != "shortcuts":
            return self
        for name in ("n_actors", "distractors", "colours", "textures"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: task=shortcuts has scenes of the default style alone")
        return self

    @property
    def shortcuts(self) -> ShortcutConfig:
        """What is planted with ``task=shortcuts``: copies and wrong labels in proportion."""
        return ShortcutConfig(
            self.n_clips,
            self.seed,
            n_duplicates=round(0.03 * self.n_clips),
            n_swapped=round(0.04 * self.n_clips),
            clean=self.clean,
        )

    @property
    def canvas(self) -> Canvas:
        """Size and rate of the video."""
        return Canvas(self.width, self.height, self.fps, self.min_duration_s, self.max_duration_s)


class TrainConfig(FrozenConfig):
    """Train a small video transformer on synthetic scenes."""

    out: str
    """Folder that the model, its processor and its card are written to."""
    held_out: str | None = None
    """Manifest of synthetic clips of another seed, to measure accuracy on; for an `exact_` task
    clips of the next seed are drawn."""
    task: DatasetName | ExactTask = "actions"
    """What the class is, as `jobs.synthesize` has it, or a scenario of
    `pipeline.synthetic.exact_scenarios`."""
    clean: bool = False
    """Learn from the clean twin of `shortcuts`."""
    architecture: Literal["timesformer", "vivit", "videomae"] = "timesformer"
    """Family of the model."""
    start: str | None = None
    """Checkpoint of the same family, size and classes whose weights training starts from, where a
    task is learnt from an easier one; by default weights are drawn."""
    n_layers: int = Field(default=3, ge=1)
    """Blocks of the model."""
    distractors: Literal["idle", "acting"] = "idle"
    """`acting`: they do what actors do, so that what moves is no answer."""
    n_frames: int = Field(default=8, ge=1)
    """Frames that the model sees of a clip, spread evenly over it."""
    n_clips: int = Field(default=12_000, ge=1)
    """Scenes to train on; mirrored, turned over and played backwards they make eight of each."""
    n_epochs: int = Field(default=3, ge=1)
    """Passes over the scenes."""
    batch_size: int = Field(default=16, ge=1)
    """Scenes in a step, each of them forwards and backwards."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of the one-cycle schedule."""
    patch_weight: float | None = Field(default=None, ge=0)
    """Weight of the auxiliary loss: each patch tells where the actor is and what it does. By
    default 1 for actions, and 0 for what is learnt from labels alone."""
    seed: int = Field(default=1, ge=0)
    """Seed of the scenes, the weights and the order; the demo's clips are of seed 0."""
    n_workers: int | None = Field(default=None, ge=1)
    """Processes that render; by default one per CPU."""
    n_threads: int = Field(default=1, ge=1)
    """Threads that train."""

    @model_validator(mode="after")
    def _exact_clips_are_drawn(self) -> "TrainConfig":
        if self.scenario is None:
            if self.held_out is None:
                raise ValueError(f"held_out: missing, expected a manifest of task={self.task}")
            return self
        if self.held_out is not None:
            raise ValueError(f"held_out: task={self.task} draws its own clips, leave it out")
        if self.architecture != "timesformer" or self.n_frames != exact_scenarios.N_TIMES:
            raise ValueError(
                f"task: {self.task} is learnt by architecture=timesformer with "
                f"n_frames={exact_scenarios.N_TIMES}"
            )
        if self.distractors != "idle":
            raise ValueError(f"distractors: task={self.task} has none")
        return self

    @model_validator(mode="after")
    def _can_be_trained(self) -> "TrainConfig":
        if self.patch_loss_weight > 0 and self.architecture != "timesformer":
            raise ValueError(
                f"patch_weight: {self.patch_loss_weight:g}, expected 0 of "
                f"architecture={self.architecture}: patches are told in a timesformer alone"
            )
        if self.architecture != "timesformer" and self.n_frames % 2:
            raise ValueError(f"n_frames: {self.n_frames} is odd, and tubelets take two frames")
        if self.clean and self.task != "shortcuts":
            raise ValueError(f"clean: only task=shortcuts has a clean twin, not {self.task}")
        return self

    @property
    def patch_loss_weight(self) -> float:
        """Weight of the auxiliary loss."""
        if self.patch_weight is None:
            return 1.0 if self.task == "actions" else 0.0
        return self.patch_weight

    @property
    def scenario(self) -> exact_scenarios.Scenario | None:
        """Scenario of an ``exact_`` task."""
        return scenario_of(self.task)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the task as annotations have them, in label order."""
        names: tuple[str, ...]
        if (scenario := self.scenario) is not None:
            names = exact_scenarios.class_names(scenario)
        elif self.task in TASKS:
            names = class_names(self.task)
        else:
            names = CLASSES
        return tuple(name.replace("_", " ") for name in names)
