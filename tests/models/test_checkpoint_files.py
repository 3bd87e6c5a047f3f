"""Model folders whose files say what can't be: one line with key and value, and no model."""

import json
import shutil
from collections import Counter
from random import Random

import pytest
from safetensors.torch import save_file

from pipeline.errors import ModelError, StaaError
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from tests.support.checkpoints import save_timesformer
from tests.support.families import FAMILIES
from tests.support.mutations import mutated_bytes, mutated_json, mutated_text, seed_of_the_day

N_MUTATED = 300


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each family, to be copied from."""
    base = tmp_path_factory.mktemp("families")
    saved = {name: family.save(base / name) for name, family in FAMILIES.items()}
    return saved | {"timesformer": save_timesformer(base / "timesformer")}


def changed(folder, to, file, **values):
    shutil.copytree(folder, to)
    content = json.loads((to / file).read_text())
    (to / file).write_text(json.dumps(content | values))
    return str(to)


CONFIGS = {
    "hidden_size": (10**9, 0, -1, "32", None, [32], 32.5, float("nan"), True),
    "num_hidden_layers": (10**9, 10**30, 0),
    "num_attention_heads": (10**9, 0),
    "num_frames": (10**9, 0),
    "image_size": (0, 10**12),
    "patch_size": (0, -8),
    "layer_norm_eps": ("small", float("inf"), float("nan")),
    "id2label": ([], 3, {"a": "b"}, {"0": 5}, {"0": None}, {"0": ["x"]}),
    "label2id": ([1], {"a": "b"}),
}


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in CONFIGS.items() for value in values],
    ids=str,
)
def test_a_value_of_a_config_that_can_not_be_used_is_told(folders, tmp_path, key, value):
    name = changed(folders["timesformer"], tmp_path / "x", "config.json", **{key: value})
    with pytest.raises(ModelError, match=key) as caught:
        read_checkpoint(name)
    told = str(caught.value)
    shown = value if not isinstance(value, dict | list) else next(iter(value), "")
    if shown != 10**30:
        assert str(shown) in told
    assert "expected" in told
    assert "\n" not in told
    assert len(told) < 300 + len(name)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_that_do_not_divide_the_width_are_told_before_a_clip_is_read(
    folders, tmp_path, family
):
    name = changed(folders[family], tmp_path / "x", "config.json", num_attention_heads=7)
    with pytest.raises(
        ModelError, match="num_attention_heads is 7, expected a divisor of hidden_s"
    ):
        read_checkpoint(name)


def test_classes_that_are_only_counted_have_a_bound(folders, tmp_path):
    file = tmp_path / "x" / "config.json"
    name = changed(folders["timesformer"], tmp_path / "x", "config.json", num_labels=10**9)
    content = json.loads(file.read_text())
    del content["id2label"], content["label2id"]
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"num_labels is 1000000000, expected 1 to 1,000,000"):
        read_checkpoint(name)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("timesformer", {"hidden_size": 65536, "intermediate_size": 65536}),
        ("timesformer", {"num_hidden_layers": 250}),
        ("vjepa2", {"pred_hidden_size": 65536}),
    ],
)
def test_a_model_that_is_far_larger_than_its_weights_is_not_made(folders, tmp_path, family, sizes):
    name = changed(folders[family], tmp_path / "x", "config.json", **sizes)
    checkpoint = read_checkpoint(name)
    with pytest.raises(
        ModelError, match=r"parameters, and its weights are [\d,]+ bytes|no weights"
    ):
        load_adapter(checkpoint, device="cpu")


PROCESSORS = {
    "size": ({"shortest_edge": 10**9}, {"height": 0, "width": 16}, "16", {"shortest_edge": "x"}),
    "crop_size": ({"height": -1, "width": 16}, 0, [[]], {"height": float("inf"), "width": 16}),
    "image_mean": (["a", 0, 0], [0.5], [None, 0, 0], "0.5", [float("nan")] * 3),
    "image_std": ([0, 1, 1], [-1, 1, 1], {}),
    "rescale_factor": ("x", 0, float("inf"), True),
    "resample": (9, "bilinear", -1),
    "do_resize": ("yes", 1),
    "do_normalize": ([],),
}


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in PROCESSORS.items() for value in values],
    ids=str,
)
@pytest.mark.parametrize(
    ("family", "file"),
    [
        ("timesformer", "preprocessor_config.json"),
        ("vjepa2", "video_preprocessor_config.json"),
    ],
)
def test_a_value_of_a_processor_that_can_not_be_used_is_told(
    folders, tmp_path, family, file, key, value
):
    name = changed(folders[family], tmp_path / "x", file, **{key: value})
    with pytest.raises(ModelError, match=f"{file} of .*: {key} is .*, expected "):
        read_checkpoint(name)


def test_a_folder_without_a_processor_is_told_what_to_add(folders, tmp_path):
    shutil.copytree(folders["timesformer"], tmp_path / "x")
    (tmp_path / "x" / "preprocessor_config.json").unlink()
    with pytest.raises(
        ModelError, match=r"has no preprocessor_config\.json; add the one of the chec"
    ):
        read_checkpoint(str(tmp_path / "x"))


INDICES = {
    "no table": [],
    "no JSON": "{",
    "no map": {"metadata": {}},
    "empty": {"weight_map": {}},
    "a list": {"weight_map": ["model-1.safetensors"]},
    "a number": {"weight_map": {"a": 3}},
    "outside": {"weight_map": {"a": "../model-1.safetensors"}},
    "anywhere": {"weight_map": {"a": "/etc/passwd"}},
    "pickled": {"weight_map": {"a": "pytorch_model.bin"}},
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_an_index_of_weights_that_is_none_is_told(folders, tmp_path, index):
    folder = tmp_path / "x"
    shutil.copytree(folders["timesformer"], folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        index if isinstance(index, str) else json.dumps(index)
    )
    with pytest.raises(ModelError, match=r"its model\.safetensors\.index\.json (is|has) "):
        read_checkpoint(str(folder))


def test_weights_of_other_types_are_told(folders, tmp_path):
    import torch

    folder = tmp_path / "x"
    shutil.copytree(folders["timesformer"], folder)
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    checkpoint = read_checkpoint(str(folder))
    with pytest.raises(ModelError, match="has no weights, or weights of another shape, for"):
        load_adapter(checkpoint, device="cpu")


def test_a_whole_folder_is_still_read(folders):
    for folder in folders.values():
        load_adapter(read_checkpoint(str(folder)), device="cpu")


def outcome_of(folder):
    """What becomes of a folder: read, or one line of at most 300 characters beside its path."""
    try:
        load_adapter(read_checkpoint(str(folder)), device="cpu")
    except StaaError as error:
        told = str(error)
        assert "\n" not in told
        assert len(told.replace(str(folder), "")) < 300
        return "refused"
    return "read"


@pytest.mark.slow
def test_folders_that_are_damaged_at_random_are_read_or_refused_in_one_line(folders, tmp_path):
    random = Random(seed_of_the_day())
    outcomes = Counter()
    folder = tmp_path / "x"
    for _ in range(N_MUTATED):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(random.choice(list(folders.values())), folder)
        texts = sorted(folder.glob("*.json"))
        file = random.choice([*texts * 3, folder / "model.safetensors"])
        if file.suffix != ".json":
            mutate = mutated_bytes
        else:
            mutate = random.choice([mutated_json, mutated_json, mutated_text])
        file.write_bytes(mutate(file.read_bytes(), random))
        outcomes[outcome_of(folder)] += 1
    # Else it would be damage of one kind.
    assert min(outcomes["read"], outcomes["refused"]) > N_MUTATED / 20, outcomes


def test_a_folder_that_is_saved_as_it_is_has_no_damage(tmp_path):
    assert outcome_of(save_timesformer(tmp_path)) == "read"
