"""Models beside decoders on the CPUs and GPUs that there are."""

import os

import pytest
import ray

from pipeline.errors import ClusterError, ConfigError
from pipeline.execution.cluster import (
    _keep_token_private,
    check_target,
    connected,
    nodes_without,
)
from pipeline.run.config import AttributeConfig
from pipeline.run.resources import ModelPool, model_pool


def config_of(**changes):
    return AttributeConfig(manifest="m", model="m", out="o", **changes)


def test_a_gpu_that_is_not_there_is_refused_unless_one_may_come():
    with pytest.raises(ConfigError, match="device: 'cuda'"):
        model_pool(config_of(device="cuda"), cpus=8, gpus=0)
    pool = model_pool(config_of(device="cuda"), cpus=8, gpus=0, may_grow=True)
    assert pool == ModelPool("cuda", 1, 1, may_grow=True)


def test_a_ray_that_is_there_is_used_and_left(local_ray):
    with connected(config_of()) as pool:
        assert pool.n_models >= 1
    assert ray.is_initialized()


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_is_not_there_is_named(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with (
        pytest.raises(ConfigError, match=f"RAY_ADDRESS: no cluster .*{address}"),
        connected(config_of()),
    ):
        pass


def test_a_relative_target_is_refused_on_a_cluster_alone(monkeypatch):
    check_target(config_of().model_copy(update={"out": "s3://bucket/run"}))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    for out in ("/shared/run", "file:///shared/run", "s3://bucket/run"):
        check_target(config_of().model_copy(update={"out": out}))
    with pytest.raises(ConfigError, match="out: 'o' is a relative path, which on a cluster"):
        check_target(config_of())
    cached = config_of().model_copy(update={"out": "s3://bucket/run", "frames_cache": "frames"})
    with pytest.raises(ConfigError, match="frames_cache: 'frames' is a relative path"):
        check_target(cached)


def test_a_node_that_reads_something_else_at_a_path_is_named(local_ray, tmp_path):
    (tmp_path / "token").write_text("here")
    nodes = ray.nodes()
    named = [f"{nodes[0]['NodeManagerHostname']} ({nodes[0]['NodeManagerAddress']})"]
    assert nodes_without(tmp_path / "token", "here", nodes) == ([], [])
    assert nodes_without(tmp_path / "token", "there", nodes) == (named, [])
    assert nodes_without(tmp_path / "absent", "here", nodes) == (named, [])


def test_a_node_that_does_not_answer_is_not_said_to_read_something_else(local_ray, tmp_path):
    (tmp_path / "token").write_text("here")
    (node,) = ray.nodes()
    gone = node | {"NodeID": "1" * len(node["NodeID"]), "NodeManagerHostname": "gone"}
    silent = [f"gone ({node['NodeManagerAddress']})"]
    assert nodes_without(tmp_path / "token", "here", [node, gone]) == ([], silent)
    # A fifo is never read to its end.
    os.mkfifo(tmp_path / "fifo")
    strangers, silent = nodes_without(tmp_path / "fifo", "here", [node], answer_s=1)
    assert (strangers, len(silent)) == ([], 1)
    (tmp_path / "fifo").write_text("the task ends")


@pytest.mark.parametrize("is_there", [True, False])
def test_rays_token_is_the_users_alone(tmp_path, monkeypatch, is_there):
    file = tmp_path / "ray" / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    if is_there:
        file.parent.mkdir()
        file.write_text("secret")
        file.chmod(0o644)
    _keep_token_private()
    # No one else reads the file, or gets to it.
    assert (file if is_there else file.parent).stat().st_mode & 0o077 == 0


def test_a_ray_that_cannot_be_started_is_told_on_one_line(monkeypatch):
    def init(**arguments):
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    said = r"Ray can't be started on this machine: The .* out during startup. --serial computes"
    with pytest.raises(ClusterError, match=said), connected(config_of()):
        pass
