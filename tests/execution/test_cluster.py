"""Models beside decoders on the CPUs and GPUs that there are."""

import pytest
import ray

from pipeline.errors import ConfigError
from pipeline.execution.cluster import connected
from pipeline.run.config import AttributeConfig
from pipeline.run.resources import ModelPool, model_pool


def config_of(**changes):
    return AttributeConfig(manifest="m", model="m", out="o", **changes)


def test_a_gpu_that_is_not_there_is_refused_unless_one_may_come():
    with pytest.raises(ConfigError, match="device: 'cuda'"):
        model_pool(config_of(device="cuda"), cpus=8, gpus=0)
    pool = model_pool(config_of(device="cuda"), cpus=8, gpus=0, may_grow=True)
    assert pool == ModelPool("cuda", 1, may_grow=True)


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
