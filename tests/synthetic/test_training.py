"""The training of the small model: its augmentation, its start, and what it leaves behind."""

from itertools import islice

import numpy as np
import pytest
import torch

from jobs.cli import run_job
from jobs.train import run_training
from pipeline.clips.sampling import Sampling
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.synthetic.config import SynthesizeConfig, TrainConfig
from pipeline.synthetic.dataset import write_dataset
from pipeline.synthetic.exact_scenarios import SCENARIOS, class_names, exact_clips
from pipeline.synthetic.scenes import ACTIONS, sample_scene
from pipeline.synthetic.small_models import IMAGE_SIZE, small_model
from pipeline.synthetic.training import (
    CLASS_NAMES,
    augmented,
    collect_clips,
    held_out_accuracy,
    mirrored,
    render_clips,
    save,
    start_from,
    train,
    with_reverse,
)


def path_of_actor(action, index=0, n_frames=8, size=16):
    """Coverage of an actor that is drawn as a disc, and the frames that show just that."""
    scene = sample_scene(0, index, action)
    chosen = Sampling("uniform", n_frames).indices(n_frames=scene.n_frames, fps=30)
    rows, columns = (np.mgrid[:size, :size] + 0.5) * 256 / size
    coverage = np.zeros((n_frames, size, size), np.float32)
    for time, frame in enumerate(chosen.tolist()):
        pose = scene.actor_pose(frame)
        # The model's crop: 256 of 340 columns.
        distance = np.hypot(columns + 42 - pose.x, rows - pose.y)
        coverage[time] = distance < pose.radius
    frames = np.repeat((255 * coverage).astype(np.uint8)[..., None], 3, axis=-1)
    return torch.from_numpy(frames), torch.from_numpy(coverage)


def motion(coverage):
    """How the covered area moves: change of its centre's x and y, and of its size."""
    n = coverage.sum((1, 2)).clamp_min(1)
    x = (coverage.sum(1) * torch.arange(coverage.shape[2])).sum(1) / n
    y = (coverage.sum(2) * torch.arange(coverage.shape[1])).sum(1) / n
    return {"x": (x[-1] - x[0]).item(), "y": (y[-1] - y[0]).item(), "n": (n[-1] / n[0]).item()}


SHOWS = {
    "move left": lambda m: m["x"] < -2,
    "move right": lambda m: m["x"] > 2,
    "move up": lambda m: m["y"] < -2,
    "move down": lambda m: m["y"] > 2,
    "grow": lambda m: m["n"] > 1.5,
    "shrink": lambda m: m["n"] < 0.7,
}


def turned(frames, coverage, labels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return with_reverse(*mirrored(frames, coverage, labels, generator))


@pytest.mark.parametrize("name", SHOWS)
def test_a_turned_clip_shows_what_its_new_label_says(name):
    frames, coverage = path_of_actor(name.replace(" ", "_"))
    n_clips = 32
    new_frames, new_coverage, new_labels = turned(
        frames.expand(n_clips, *frames.shape),
        coverage.expand(n_clips, *coverage.shape),
        torch.full((n_clips,), CLASS_NAMES.index(name)),
    )
    assert len(new_labels) == 2 * n_clips
    assert len(set(new_labels.tolist())) == 2
    for label, covered in zip(new_labels.tolist(), new_coverage, strict=True):
        assert SHOWS[CLASS_NAMES[label]](motion(covered))
    # Frames and coverage are turned alike.
    assert torch.equal(new_frames[..., 0] > 0, new_coverage > 0)


def test_a_clip_and_its_reverse_differ_in_their_order_alone():
    frames, coverage = path_of_actor("move_left")
    both, _, labels = with_reverse(
        frames[None], coverage[None], torch.tensor([CLASS_NAMES.index("move left")])
    )
    assert torch.equal(both[0].flip(0), both[1])
    assert [CLASS_NAMES[label] for label in labels] == ["move left", "move right"]


def test_turning_leaves_the_other_labels_and_its_arguments_alone():
    generator = torch.Generator().manual_seed(3)
    frames = torch.randint(0, 255, (40, 4, 6, 6, 3), generator=generator, dtype=torch.uint8)
    coverage = torch.rand(40, 4, 3, 3, generator=generator)
    labels = torch.tensor([CLASS_NAMES.index(n) for n in ("blink", "bounce", "orbit", "spin")] * 10)
    before = frames.clone(), coverage.clone(), labels.clone()
    new_frames, _, new_labels = turned(frames, coverage, labels)
    assert torch.equal(new_labels, torch.cat([labels, labels]))
    assert not torch.equal(new_frames[:40], frames)
    for value, copy in zip((frames, coverage, labels), before, strict=True):
        assert torch.equal(value, copy)


def test_the_untrained_model_attends_unevenly_and_prefers_no_class():
    model = small_model("timesformer", 8, 0, CLASS_NAMES).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 8, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    with torch.inference_mode():
        output = model(pixel_values=pixels, output_attentions=True)
    assert (output.logits == output.logits[:, :1]).all()
    rows = output.attentions[-1][:, :, 0]
    assert rows.std() / rows.mean() > 0.1


def config_of(tmp_path, **changes):
    values = {"out": str(tmp_path / "model"), "held_out": "none", "n_clips": 20, "n_epochs": 12}
    return TrainConfig(**{**values, "batch_size": 10, "n_workers": 1, **changes})


def test_a_few_clips_are_learnt_the_same_way_every_time(tmp_path):
    config = config_of(tmp_path, learning_rate=3e-3)
    clips = collect_clips(render_clips(config), config)
    assert clips.frames.shape == (20, 8, 96, 96, 3)
    assert clips.coverage.shape == (20, 8, 8, 8)
    assert 0 < clips.coverage.mean() < 0.2
    assert [ACTIONS[label] for label in clips.labels[:10]] == list(ACTIONS)

    def losses(n_epochs):
        model = small_model("timesformer", 8, config.seed, CLASS_NAMES)
        return [epoch.loss for epoch in islice(train(model, clips, config), n_epochs)]

    first = losses(config.n_epochs)
    assert losses(2) == first[:2]
    assert first[0] == pytest.approx(np.log(10), abs=0.1)
    assert first[-1] < 0.9 * first[0]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_is_learnt_without_files(scenario, tmp_path, capsys):
    """Ten steps; each of them with the reverse of its clips where their order is the class."""
    argv = [
        *("--out", str(tmp_path / "model"), "--task", f"exact_{scenario}", "--n-layers", "1"),
        *("--n-clips", "40", "--batch-size", "4", "--n-epochs", "1"),
    ]
    assert run_job(TrainConfig, run_training, verb="train", argv=argv) == 0
    checkpoint = read_checkpoint(str(tmp_path / "model"))
    assert checkpoint.class_names == class_names(scenario)
    assert checkpoint.geometry.input_size == (64, 64)
    assert checkpoint.preprocessing.output_size(64, 64) == (64, 64)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "drawn with seed 2" in card
    assert "--held-out" not in card
    assert "of 400 held-out clips are right" in capsys.readouterr().out


def test_training_starts_from_a_checkpoint_of_the_same_kind_alone(tmp_path, held_out, capsys):
    classes = CLASS_NAMES
    other = small_model("timesformer", 4, 7, classes, n_layers=1)
    save(other, str(tmp_path / "start"))
    model = small_model("timesformer", 4, 8, classes, n_layers=1)
    start_from(model, str(tmp_path / "start"))
    for name, weights in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights), name
    argv = [
        *("--out", str(tmp_path / "model"), "--held-out", str(held_out), "--n-frames", "4"),
        *("--n-clips", "10", "--n-epochs", "1", "--n-workers", "1"),
    ]
    start = ["--start", str(tmp_path / "start")]
    capsys.readouterr()
    for flags, message in (
        (
            [*start, "--n-layers", "2"],
            "encoder.layer.1.attention.attention.qkv.weight None, expected (192, 64)",
        ),
        (["--start", str(tmp_path / "none"), "--n-layers", "1"], "none"),
        ([*start, "--task", "exact_flash", "--n-layers", "1"], "held_out: task=exact_flash"),
    ):
        assert run_job(TrainConfig, run_training, verb="train", argv=[*argv, *flags]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "model").exists()
    assert (
        run_job(TrainConfig, run_training, verb="train", argv=[*argv, *start, "--n-layers", "1"])
        == 0
    )
    assert "--start" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("scenario", "becomes"),
    [
        ("motion", {"left": "right", "right": "left", "up": "down", "down": "up"}),
        ("order", {"t then l": "l then t", "l then t": "t then l"}),
    ],
)
def test_a_clip_of_a_scenario_played_backwards_is_of_the_class_that_it_shows(scenario, becomes):
    config = TrainConfig(out="none", task=f"exact_{scenario}")
    drawn = exact_clips(scenario, 8, seed=4)
    pixels, labels = torch.from_numpy(drawn.pixels), torch.from_numpy(drawn.labels)
    nothing = torch.zeros(8, 8, 8, 8)
    both, _, new = augmented(config, pixels, nothing, labels, torch.Generator())
    assert torch.equal(both[:8], pixels)
    assert torch.equal(both[8:], pixels.flip(1))
    names = class_names(scenario)
    assert [becomes[names[label]] for label in labels] == [names[label] for label in new[8:]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "exact_flash", "--held-out", "a.parquet"], "held_out: task=exact_flash draws"),
        (["--task", "exact_flash", "--architecture", "vivit"], "architecture=timesformer"),
        (["--task", "exact_flash", "--n-frames", "4"], "n_frames=8"),
        (["--task", "exact_flash", "--distractors", "acting"], "distractors: task=exact_flash"),
        (["--task", "order"], "held_out: missing, expected a manifest of task=order"),
    ],
)
def test_what_does_not_go_with_a_scenario_is_one_line(flags, message, tmp_path, capsys):
    argv = ["--out", str(tmp_path / "model"), *flags]
    assert run_job(TrainConfig, run_training, verb="train", argv=argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "model").exists()


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held_out")
    for _ in write_dataset(
        SynthesizeConfig(
            out=str(folder), n_clips=10, seed=2, width=86, height=64, fps=10, max_duration_s=4.5
        )
    ):
        pass
    table = build_manifest(
        layout="kinetics", clips=str(folder), annotations=str(folder / "annotations.csv")
    )
    write_manifest(table, str(folder / "manifest.parquet"))
    return folder / "manifest.parquet"


@pytest.mark.parametrize("n_frames", [1, 8])
def test_the_job_leaves_a_checkpoint_that_loads_and_a_card_that_tells(
    tmp_path, held_out, capsys, n_frames
):
    argv = [
        *("--out", str(tmp_path / "model"), "--held-out", str(held_out)),
        *("--n-frames", str(n_frames), "--n-clips", "20", "--n-epochs", "1", "--n-workers", "1"),
    ]
    assert run_job(TrainConfig, run_training, verb="train", argv=argv) == 0
    checkpoint = read_checkpoint(str(tmp_path / "model"))
    assert checkpoint.class_names == CLASS_NAMES
    assert checkpoint.geometry.n_frames == n_frames
    assert checkpoint.preprocessing.output_size(256, 340) == checkpoint.geometry.input_size
    load_adapter(checkpoint, device="cpu")
    card = (tmp_path / "model" / "README.md").read_text()
    for fact in (f"--n-frames {n_frames}" if n_frames == 1 else "--n-clips 20", "of 10 clips"):
        assert fact in card
    assert "of 10 held-out clips are right" in capsys.readouterr().out


def test_a_held_out_manifest_that_is_not_there_is_told_before_anything_is_rendered(
    tmp_path, capsys
):
    argv = ["--out", str(tmp_path / "model"), "--held-out", str(tmp_path / "none.parquet")]
    assert run_job(TrainConfig, run_training, verb="train", argv=argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "none.parquet" in error
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("labelled", [True, False])
def test_clips_of_other_classes_are_refused_before_anything_is_rendered(
    tmp_path, held_out, capsys, labelled
):
    listing = tmp_path / "clips.txt"
    listing.write_text("a.mp4\tsword" if labelled else "a.mp4")
    manifest = str(tmp_path / "clips.parquet")
    write_manifest(
        build_manifest(layout="list", clips=str(tmp_path), annotations=str(listing)), manifest
    )
    argv = ["--out", str(tmp_path / "model"), "--held-out", manifest]
    assert run_job(TrainConfig, run_training, verb="train", argv=argv) == 2
    assert "expected those of synthetic clips: blink" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_clip_that_can_not_be_decoded_counts_as_wrong(tmp_path):
    (tmp_path / "a.mp4").write_text("not a video")
    listing = tmp_path / "clips.txt"
    manifest = str(tmp_path / "clips.parquet")
    model = small_model("timesformer", 8, 0, CLASS_NAMES)
    for name in CLASS_NAMES:
        listing.write_text(f"a.mp4\t{name}")
        table = build_manifest(layout="list", clips=str(tmp_path), annotations=str(listing))
        write_manifest(table, manifest)
        assert held_out_accuracy(model, read_manifest(manifest)) == 0
