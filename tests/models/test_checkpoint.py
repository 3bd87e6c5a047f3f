"""Checkpoints as `save_pretrained` leaves them, whole and broken, through the registry."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import TimesformerModel, ViTConfig
from transformers.models.llava_onevision.video_processing_llava_onevision import (
    LlavaOnevisionVideoProcessor,
)
from transformers.models.vivit.video_processing_vivit import VivitVideoProcessor
from transformers.models.vjepa2.video_processing_vjepa2 import VJEPA2VideoProcessor

from pipeline.attribution.method import Method
from pipeline.clips.sampling import Sampling
from pipeline.errors import ConfigError, ModelError
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.models.explain import explain
from tests.clips.test_preprocess import VIDEO_PROCESSORS
from tests.support.checkpoints import CLASS_NAMES, make_timesformer, save_timesformer
from tests.support.families import FAMILIES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    return save_timesformer(tmp_path / "checkpoint", num_frames=8, num_hidden_layers=3)


def rewrite_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def test_facts_of_a_checkpoint(folder):
    checkpoint = read_checkpoint(str(folder))
    assert checkpoint.name == str(folder)
    assert checkpoint.revision is None
    assert checkpoint.family == "timesformer"
    assert checkpoint.class_names == CLASS_NAMES
    assert checkpoint.weights_bytes == (folder / "model.safetensors").stat().st_size
    assert checkpoint.n_layers == 3
    geometry = checkpoint.geometry
    assert (geometry.n_times, geometry.height, geometry.width) == (8, 2, 2)
    assert geometry.n_frames == 8
    assert checkpoint.sampling == Sampling(kind="strided", n_samples=8, stride=32)
    assert checkpoint.preprocessing.output_size(240, 320) == (16, 16)
    assert checkpoint.preprocessing.resized_size(240, 320) == (16, 21)
    assert checkpoint.preprocessing.image_mean == (0.45, 0.45, 0.45)
    assert checkpoint.preprocessing.image_std == (0.225, 0.225, 0.225)


@pytest.mark.parametrize(
    ("num_frames", "sampling"),
    [
        (8, Sampling(kind="strided", n_samples=8, stride=32)),
        (16, Sampling(kind="strided", n_samples=16, stride=16)),
        (96, Sampling(kind="strided", n_samples=96, stride=4)),
        (5, Sampling(kind="uniform", n_samples=5)),
    ],
)
def test_sampling_is_that_of_the_published_checkpoint_with_as_many_frames(
    tmp_path, num_frames, sampling
):
    folder = save_timesformer(tmp_path, num_frames=num_frames)
    assert read_checkpoint(str(folder)).sampling == sampling


def test_a_loaded_model_predicts_what_the_saved_one_did(folder):
    original = make_timesformer(num_frames=8, num_hidden_layers=3)
    adapter = load_adapter(read_checkpoint(str(folder)), device="cpu")
    assert not adapter.model.training
    clips = torch.randn(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        explanation = explain(adapter, clips, Method(name="staa-paper"))
        expected = original(pixel_values=clips).logits
    torch.testing.assert_close(explanation.logits, expected, atol=1e-4, rtol=0)
    assert explanation.joint.shape == (2, 1, 8, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_loaded_in_float32_whatever_it_was_saved_in(folder, tmp_path, dtype):
    make_timesformer(num_frames=8, num_hidden_layers=3).to(dtype).save_pretrained(folder)
    adapter = load_adapter(read_checkpoint(str(folder)), device="cpu")
    assert {parameter.dtype for parameter in adapter.model.parameters()} == {torch.float32}


def test_the_digest_is_of_the_weights_and_not_of_the_path(folder, tmp_path):
    digest = read_checkpoint(str(folder)).weights_digest
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert read_checkpoint(str(copy)).weights_digest == digest

    weights = load_file(copy / "model.safetensors")
    weights["classifier.bias"][2] += 1e-6
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert read_checkpoint(str(copy)).weights_digest != digest


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_config_decides_is_the_same_once_a_store_has_kept_it(tmp_path, name):
    family = FAMILIES[name]
    config = read_checkpoint(str(family.save(tmp_path, **family.sizes[0]))).config
    assert config["hidden_size"] > 0
    assert "dtype" not in config
    assert json.loads(json.dumps(config)) == config


def shard(folder):
    """Save the folder's model anew in several safetensors files."""
    model = make_timesformer(num_frames=8, num_hidden_layers=3)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")
    files = sorted(folder.glob("model-*.safetensors"))
    assert len(files) > 1
    return files


def test_weights_in_several_files_are_all_loaded_and_all_in_the_digest(folder):
    files = shard(folder)
    checkpoint = read_checkpoint(str(folder))
    assert checkpoint.weights_bytes == sum(file.stat().st_size for file in files)
    loaded = load_adapter(checkpoint, device="cpu").model.state_dict()
    original = make_timesformer(num_frames=8, num_hidden_layers=3).state_dict()
    assert all(torch.equal(loaded[name], original[name]) for name in original)

    digests = {checkpoint.weights_digest}
    for file in files:
        weights = load_file(file)
        next(iter(weights.values())).add_(1)
        save_file(weights, file, metadata={"format": "pt"})
        digests.add(read_checkpoint(str(folder)).weights_digest)
    assert len(digests) == len(files) + 1


def without_one_shard(folder):
    shard(folder)[0].unlink()


def pickled_weights_only(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def without_processor(folder):
    (folder / "preprocessor_config.json").unlink()


def without_config(folder):
    (folder / "config.json").unlink()


def broken_config(folder):
    (folder / "config.json").write_text('{"model_type": "timesf')


def unheard_of_type(folder):
    rewrite_config(folder, model_type="unheard-of")


def classes_numbered_from_1(folder):
    numbered = {str(index): name for index, name in enumerate(CLASS_NAMES, start=1)}
    rewrite_config(folder, id2label=numbered, label2id={n: int(i) for i, n in numbered.items()})


def a_class_left_out(folder):
    numbered = {str(index): name for index, name in enumerate(CLASS_NAMES) if index != 2}
    rewrite_config(folder, id2label=numbered, label2id={n: int(i) for i, n in numbered.items()})


def unheard_of_attention(folder):
    rewrite_config(folder, attention_type="time_only")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without_one_shard, "has no model-00001-of-.*safetensors; only safetensors are loaded"),
        (pickled_weights_only, "only safetensors are loaded"),
        (without_weights, "only safetensors are loaded"),
        (without_processor, "preprocessor_config.json"),
        (without_config, "config.json"),
        (broken_config, "not a valid JSON file"),
        (unheard_of_type, "unheard-of"),
        (classes_numbered_from_1, "5 classes in id2label, but none of them is 0: expected 0 to 4"),
        (a_class_left_out, "4 classes in id2label, but none of them is 2: expected 0 to 3"),
        (unheard_of_attention, "attention_type='time_only'.*divided_space_time"),
    ],
)
def test_a_checkpoint_that_can_not_be_explained_is_refused_unloaded(folder, damage, reason):
    damage(folder)
    with pytest.raises(ModelError, match=reason) as error:
        read_checkpoint(str(folder))
    one_line(error)


def test_another_family_is_refused_with_the_families_that_are_known(tmp_path):
    folder = save_timesformer(tmp_path)
    ViTConfig().save_pretrained(folder)
    with pytest.raises(ModelError, match=r"'vit'.*known: .*timesformer") as error:
        read_checkpoint(str(folder))
    assert str(folder) in one_line(error)


def test_a_processor_step_that_can_not_be_honoured_is_named(folder):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_pad": True}))
    with pytest.raises((ConfigError, ModelError), match="do_pad"):
        read_checkpoint(str(folder))


def as_it_is(file):
    pass


def nested_in_the_processors_file(file):
    nested = {"processor_class": "X", "video_processor": json.loads(file.read_text())}
    (file.parent / "processor_config.json").write_text(json.dumps(nested))
    file.unlink()


def under_the_image_processors_name(file):
    file.rename(file.parent / "preprocessor_config.json")


def without_its_name(file):
    parameters = json.loads(file.read_text())
    del parameters["video_processor_type"]
    file.write_text(json.dumps(parameters))


def broken(file):
    file.write_text("{")


def video_processor_only(tmp_path):
    folder = FAMILIES["vjepa2"].save(tmp_path / "checkpoint", crop_size=32)
    file = folder / "video_preprocessor_config.json"
    assert file.exists()
    assert not (folder / "preprocessor_config.json").exists()
    return folder, file


@pytest.mark.parametrize(
    "change", [as_it_is, nested_in_the_processors_file, under_the_image_processors_name]
)
def test_a_video_processor_is_read_where_there_is_no_image_processor(tmp_path, change):
    folder, file = video_processor_only(tmp_path)
    change(file)
    preprocessing = read_checkpoint(str(folder)).preprocessing
    assert preprocessing.shortest_edge == int(32 * 256 / 224)
    assert preprocessing.crop == (32, 32)
    assert preprocessing.image_mean == (0.485, 0.456, 0.406)
    assert preprocessing.rescale_factor == pytest.approx(1 / 255)


SILENT = {
    "vjepa2": ("size", {"size": {"shortest_edge": 32}}),
    "vivit": ("rescale_factor", {}),
    "videoprism": ("resample", {}),
}
"""By family, a key of the video processor's file, and what the file says of it."""


@pytest.mark.parametrize("name", SILENT)
def test_where_a_video_processors_file_is_silent_or_not_heeded_its_class_decides(name, tmp_path):
    """The reference is the class itself, made by transformers of the same file."""
    processor_class = type(VIDEO_PROCESSORS[name])
    folder = FAMILIES[name].save(tmp_path)
    for file in folder.glob("*processor*.json"):
        file.unlink()
    VIDEO_PROCESSORS[name].save_pretrained(folder)
    (file,) = folder.glob("*processor*.json")
    key, said = SILENT[name]
    parameters = json.loads(file.read_text())
    del parameters[key]
    file.write_text(json.dumps(parameters | said))

    preprocessing = read_checkpoint(str(folder)).preprocessing
    theirs = processor_class.from_pretrained(folder)
    size = theirs.size
    if size.shortest_edge:
        assert preprocessing.shortest_edge == size.shortest_edge
    else:
        assert preprocessing.resize == (size.height, size.width)
    assert preprocessing.resample == theirs.resample
    # Of pixels that say what becomes of black and white.
    ends = torch.tensor([0, 255], dtype=torch.uint8).expand(3, 1, 2)
    rescaled = theirs.rescale_and_normalize(
        ends, theirs.do_rescale, theirs.rescale_factor, False, None, None
    )
    ours = ends * preprocessing.rescale_factor - int(preprocessing.offset)
    torch.testing.assert_close(ours, rescaled)


def test_those_values_are_not_what_other_processors_have(tmp_path):
    """Guard of the test above, of transformers' values as of today."""
    assert VJEPA2VideoProcessor(crop_size=32, size={"shortest_edge": 32}).size.shortest_edge == 36
    assert VivitVideoProcessor().rescale_factor == 1 / 127.5
    assert LlavaOnevisionVideoProcessor().resample == 3


def test_a_video_processor_with_parameters_of_another_kind_is_refused(tmp_path):
    folder = FAMILIES["videomae"].save(tmp_path / "checkpoint")
    (folder / "preprocessor_config.json").unlink()
    (folder / "video_preprocessor_config.json").write_text(
        json.dumps({"video_processor_type": "VideoMAEVideoProcessor", "size": [1]})
    )
    with pytest.raises(
        ModelError, match="its VideoMAEVideoProcessor can't take its parameters"
    ) as error:
        read_checkpoint(str(folder))
    one_line(error)


def test_a_video_processor_of_another_class_is_refused(tmp_path):
    folder, file = video_processor_only(tmp_path)
    file.write_text(file.read_text().replace("VJEPA2VideoProcessor", "UnheardOfVideoProcessor"))
    with pytest.raises(ModelError, match=r"UnheardOfVideoProcessor.*known: .*VJEPA2") as error:
        read_checkpoint(str(folder))
    assert str(folder) in one_line(error)


@pytest.mark.parametrize("change", [without_its_name, broken, Path.unlink])
def test_a_checkpoint_without_a_processor_of_either_kind_is_refused(tmp_path, change):
    folder, file = video_processor_only(tmp_path)
    change(file)
    with pytest.raises(ModelError, match="can't be loaded") as error:
        read_checkpoint(str(folder))
    assert str(folder) in one_line(error)


def backbone_only(folder):
    """What self-supervised checkpoints are: transformers makes up a classifier at random."""
    config = make_timesformer(num_frames=8, num_hidden_layers=3).config
    TimesformerModel(config).save_pretrained(folder)


def other_shapes(folder):
    rewrite_config(folder, hidden_size=48, intermediate_size=64)


def another_number_of_classes(folder):
    rewrite_config(folder, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})


def cut_off_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def one_weight_less(folder):
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["timesformer.encoder.layer.1.temporal_attention.attention.qkv.weight"]
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (backbone_only, "classifier"),
        (other_shapes, "shape"),
        (another_number_of_classes, "classifier"),
        (cut_off_weights, "can't be loaded"),
        (one_weight_less, r"layer\.1\.temporal_attention\.attention\.qkv\.weight"),
    ],
)
def test_weights_are_never_made_up(folder, damage, reason):
    damage(folder)
    checkpoint = read_checkpoint(str(folder))
    with pytest.raises(ModelError, match=reason) as error:
        load_adapter(checkpoint, device="cpu")
    assert str(folder) in one_line(error)


@pytest.mark.parametrize("name", ["missing", "missing/deeper/still"])
def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path, name):
    with pytest.raises(ModelError, match="no such folder") as error:
        read_checkpoint(str(tmp_path / name))
    assert str(tmp_path / name) in one_line(error)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match="can't be loaded") as error:
        read_checkpoint(str(tmp_path))
    one_line(error)


def test_a_hub_id_that_is_not_cached_is_refused_at_once_offline(tmp_path):
    # The hub's client reads the variable when it is imported, and so in a process of its own.
    script = """
from pipeline.errors import ModelError
from pipeline.models.checkpoint import read_checkpoint
try:
    read_checkpoint("facebook/timesformer-base-finetuned-k400")
except ModelError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        # The hub would be tried for longer.
        timeout=120,
    )
    message = done.stdout.strip()
    assert message.startswith("model: 'facebook/timesformer-base-finetuned-k400' can't be loaded")
    assert "\n" not in message


def test_who_loads_a_model_loads_no_other_family_and_no_processor(folder):
    """Each takes part of a second, in every process that holds a model."""
    script = """
import pickle
import sys
from pipeline.models.checkpoint import load_adapter
load_adapter(pickle.loads(sys.stdin.buffer.read()), device="cpu")
print(*sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        input=pickle.dumps(read_checkpoint(str(folder))),
        capture_output=True,
        check=True,
    )
    loaded = set(done.stdout.decode().split())
    assert "transformers.models.timesformer.modeling_timesformer" in loaded
    assert not loaded & {f"pipeline.models.{name}" for name in ("vivit", "vjepa2", "processor")}
    others = ("vivit", "vjepa2", "videomae", "videoprism")
    assert not loaded & {f"transformers.models.{name}.modeling_{name}" for name in others}


HUB_ID = "somebody/timesformer"
FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def offline_cache(tmp_path, monkeypatch):
    """Folder of `HUB_ID` in the hub's cache, which is all that there is of the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cache = tmp_path / "hub" / "models--somebody--timesformer"
    (cache / "refs").mkdir(parents=True)
    return cache


def cached(cache, commit, **config):
    """Put a checkpoint into the cache, and the branch on it."""
    (cache / "refs" / "main").write_text(commit)
    return save_timesformer(cache / "snapshots" / commit, num_hidden_layers=1, **config)


def test_a_cached_hub_id_is_read_offline(offline_cache):
    cached(offline_cache, FIRST)
    checkpoint = read_checkpoint(HUB_ID)
    assert (checkpoint.name, checkpoint.revision) == (HUB_ID, FIRST)
    assert load_adapter(checkpoint, device="cpu").grid == checkpoint.geometry


@pytest.mark.parametrize("n_shards", [1, 2])
def test_weights_that_are_not_cached_are_not_said_to_be_none(offline_cache, n_shards):
    folder = cached(offline_cache, FIRST)
    (folder / "model.safetensors").unlink()
    missing = "model.safetensors"
    if n_shards > 1:
        make_timesformer(num_hidden_layers=1).save_pretrained(folder, max_shard_size="30KB")
        missing = sorted(folder.glob("model-*.safetensors"))[1].name
        (folder / missing).unlink()
    reason = rf"{missing} of '{HUB_ID}' is not in the cache, and the hub is out of reach"
    with pytest.raises(ModelError, match=reason) as error:
        read_checkpoint(HUB_ID)
    one_line(error)


def test_a_cached_checkpoint_that_is_known_to_have_no_safetensors_is_said_to_have_none(
    offline_cache,
):
    (cached(offline_cache, FIRST) / "model.safetensors").unlink()
    # As the hub's client notes what it was told isn't there.
    for name in ("model.safetensors", "model.safetensors.index.json"):
        noted = offline_cache / ".no_exist" / FIRST / name
        noted.parent.mkdir(parents=True, exist_ok=True)
        noted.touch()
    with pytest.raises(ModelError, match=r"has no model\.safetensors; only safetensors"):
        read_checkpoint(HUB_ID)


@pytest.mark.parametrize("moved_after", ["AutoConfig", "AutoImageProcessor"])
def test_a_branch_that_moves_on_while_it_is_read_gives_one_commits_files(
    offline_cache, moved_after, monkeypatch
):
    cached(offline_cache, SECOND, image_size=32, seed=1)
    cached(offline_cache, FIRST)
    expected = read_checkpoint(HUB_ID, FIRST)
    assert read_checkpoint(HUB_ID, SECOND).preprocessing != expected.preprocessing
    read_from = getattr(transformers, moved_after).from_pretrained

    def read_and_move(*args, **kwargs):
        result = read_from(*args, **kwargs)
        (offline_cache / "refs" / "main").write_text(SECOND)
        return result

    monkeypatch.setattr(getattr(transformers, moved_after), "from_pretrained", read_and_move)
    assert read_checkpoint(HUB_ID) == expected
    assert expected.revision == FIRST
