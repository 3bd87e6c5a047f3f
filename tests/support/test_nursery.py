"""Nothing that a nursery's commands leave behind outlives it."""

import os
from pathlib import Path

import pytest

from tests.support.nursery import nursery

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux alone has it")


def daemon(folder):
    """Command that ends at once and leaves a process behind, in a session of its own."""
    return ["setsid", "sh", "-c", f"sleep 1000 & echo $! > {folder / 'pid'}"]


def is_running(folder):
    return Path("/proc", (folder / "pid").read_text().strip()).exists()


def test_daemons_live_as_long_as_the_block(tmp_path):
    with nursery([daemon(tmp_path)], environment=os.environ, log=tmp_path / "log"):
        assert is_running(tmp_path)
    assert not is_running(tmp_path)


def test_daemons_are_gone_if_the_block_or_a_later_command_fails(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        nursery([daemon(tmp_path)], environment=os.environ, log=tmp_path / "log"),
    ):
        raise ZeroDivisionError
    assert not is_running(tmp_path)

    (tmp_path / "pid").unlink()
    commands = [daemon(tmp_path), ["sh", "-c", "echo no such option >&2; exit 1"]]
    with (
        pytest.raises(AssertionError, match="no such option"),
        nursery(commands, environment=os.environ, log=tmp_path / "log"),
    ):
        pass
    assert not is_running(tmp_path)
