"""Models beside decoders on the CPUs and GPUs that there are."""

import pytest
import ray

from pipeline.errors import ConfigError
from pipeline.execution.cluster import connected
from pipeline.run.config import AttributeConfig
from pipeline.run.plan import plan_run
from pipeline.run.resources import Machine, ModelPool, check_models, model_pool
from tests.support.runs import write_inputs


def config_of(**changes):
    return AttributeConfig(manifest="m", model="m", out="o", **changes)


@pytest.mark.parametrize(
    ("cpus", "gpus", "changes", "expected"),
    [
        (2, 0, {}, ("cpu", 1)),
        (8, 0, {}, ("cpu", 4)),
        (8, 0, {"cpus_per_model": 2}, ("cpu", 2)),
        (3, 0, {"cpus_per_model": 2}, ("cpu", 1)),
        (16, 4, {}, ("cuda", 4)),
        (8, 8, {}, ("cuda", 7)),
        (8, 8, {"cpus_per_model": 0.5}, ("cuda", 8)),
        (16, 4, {"n_models": 2}, ("cuda", 2)),
        (16, 4, {"device": "cpu"}, ("cpu", 8)),
    ],
)
def test_models_take_the_gpus_or_half_of_the_cpus_and_leave_one(cpus, gpus, changes, expected):
    assert model_pool(config_of(**changes), cpus=cpus, gpus=gpus) == ModelPool(*expected)


@pytest.mark.parametrize(
    "changes", [{"n_models": 8}, {"n_models": 1, "cpus_per_model": 7.5}, {"cpus_per_model": 8}]
)
def test_models_that_leave_no_cpu_to_decode_are_refused_where_ray_would_wait(changes):
    with pytest.raises(ConfigError, match=r"n_models: .* to decode with"):
        model_pool(config_of(**changes), cpus=8, gpus=0)
    # More may come.
    assert model_pool(config_of(**changes), cpus=8, gpus=0, may_grow=True).n_models >= 1


def test_a_model_is_not_to_be_compiled_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    check_models(config_of(), Machine(cpus=2, gpus=0))
    with pytest.raises(ConfigError, match=r"compile_model: .* there is no no-such-compiler"):
        check_models(config_of(compile_model=True), Machine(cpus=2, gpus=0))


def test_a_gpu_that_is_not_there_is_refused_unless_one_may_come():
    with pytest.raises(ConfigError, match="device: 'cuda'"):
        model_pool(config_of(device="cuda"), cpus=8, gpus=0)
    pool = model_pool(config_of(device="cuda"), cpus=8, gpus=0, may_grow=True)
    assert pool == ModelPool("cuda", 1)


def test_too_many_models_are_refused_before_a_store_is_made(tmp_path):
    inputs = write_inputs(tmp_path, 1)
    config = inputs.config(tmp_path / "run", n_models=2)
    with pytest.raises(ConfigError, match="leave none of 2 CPUs"):
        plan_run(config, machine=Machine(cpus=2, gpus=0))
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
