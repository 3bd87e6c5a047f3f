"""Files of weights are found by name or by their index, and what isn't there is said to be so."""

import hashlib
import json

import huggingface_hub.constants
import pytest

from pipeline.errors import ModelError
from pipeline.models.weight_files import digest_of_files, find_file, weight_files

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write(folder, *names):
    for name in names:
        (folder / name).write_bytes(name.encode())
    return [folder / name for name in names]


def write_index(folder):
    """List a tensor in each shard."""
    weight_map = dict(zip("ab", SHARDS, strict=True))
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_one_file_is_taken_before_any_index(tmp_path):
    write_index(tmp_path)
    one = write(tmp_path, ONE, *SHARDS)[0]
    assert weight_files(str(tmp_path), None) == [one]


def test_all_files_of_an_index_are_taken_and_one_that_lacks_is_named(tmp_path):
    write_index(tmp_path)
    files = write(tmp_path, *SHARDS)
    assert sorted(weight_files(str(tmp_path), None)) == files
    files[1].unlink()
    with pytest.raises(ModelError, match=f"has no {SHARDS[1]}; only safetensors are loaded"):
        weight_files(str(tmp_path), None)


def test_a_folder_without_weights_has_none(tmp_path):
    write(tmp_path, "pytorch_model.bin")
    assert find_file(str(tmp_path), ONE, None) is None
    with pytest.raises(ModelError, match=f"has no {ONE}; only safetensors are loaded"):
        weight_files(str(tmp_path), None)


def test_weights_that_are_not_in_the_cache_are_not_said_to_be_none(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="is not in the cache, and the hub is out of reach"):
        weight_files("somebody/model", None)


def test_the_digest_is_of_every_file_and_of_their_order(tmp_path):
    files = write(tmp_path, *SHARDS)
    parts = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    assert digest_of_files(files) == hashlib.sha256(b"".join(parts)).hexdigest()
    assert digest_of_files(files[::-1]) != digest_of_files(files)
