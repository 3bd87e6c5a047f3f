"""Models beside decoders on the CPUs and GPUs that there are."""

import pytest
import ray

from pipeline.errors import ConfigError
from pipeline.execution.cluster import check_resources, connected
from pipeline.run.config import AttributeConfig
from pipeline.run.prepare import plan_run
from tests.support.runs import write_inputs


def config_of(**changes):
    return AttributeConfig(manifest="m", model="m", out="o", **changes)


def test_a_model_is_not_to_be_compiled_without_a_compiler(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    check_resources(config_of())
    with pytest.raises(ConfigError, match=r"compile_model: .* there is no no-such-compiler"):
        check_resources(config_of(compile_model=True))


def test_too_many_models_are_refused_before_a_store_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    inputs = write_inputs(tmp_path, 1)
    config = inputs.config(tmp_path / "run", n_models=2, local_cpus=2)
    with pytest.raises(ConfigError, match="leave none of 2 CPUs"):
        plan_run(config)
    assert not (tmp_path / "run").exists()


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
