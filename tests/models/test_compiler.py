"""What torch.compile needs of a machine is said before a run."""

import sys
import sysconfig

import pytest

from pipeline.errors import ConfigError
from pipeline.models.compiler import check_compiler


@pytest.fixture
def headers(tmp_path, monkeypatch):
    """Python's headers, where this machine would have them."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda *names, **more: str(tmp_path / "include"))
    return tmp_path / "include" / "Python.h"


def compiler(folder, name, monkeypatch):
    """A compiler of this name, the only program that there is."""
    (folder / "bin").mkdir()
    program = folder / "bin" / name
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))


@pytest.mark.parametrize(("device", "name"), [("cpu", "g++"), ("cuda", "gcc"), ("cuda", "clang")])
def test_the_compiler_of_the_device_is_enough(tmp_path, monkeypatch, headers, device, name):
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    compiler(tmp_path, name, monkeypatch)
    check_compiler(device)


@pytest.mark.parametrize(
    ("device", "name", "missing"), [("cpu", "gcc", r"C\+\+ .*g\+\+"), ("cuda", "g++", "C .*gcc or")]
)
def test_the_compiler_of_the_other_is_not(tmp_path, monkeypatch, headers, device, name, missing):
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    compiler(tmp_path, name, monkeypatch)
    with pytest.raises(ConfigError, match=f"compile_model: torch.compile needs a {missing}"):
        check_compiler(device)


def test_the_one_that_is_named_is_looked_for_and_no_other(tmp_path, monkeypatch, headers):
    compiler(tmp_path, "g++", monkeypatch)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no no-such-compiler on"):
        check_compiler("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="Python comes with its headers elsewhere")
def test_headers_that_are_missing_are_named(tmp_path, monkeypatch, headers):
    monkeypatch.delenv("CXX", raising=False)
    compiler(tmp_path, "g++", monkeypatch)
    headers.unlink()
    with pytest.raises(ConfigError, match=f"there is no {headers} .*python3-dev"):
        check_compiler("cpu")
