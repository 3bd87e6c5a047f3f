"""README's cluster on one machine, as written up to `ray stop`, which ends all Rays there."""

import os
import re
import sys
from pathlib import Path

import pytest

from pipeline.run.serial import execute_serially
from tests.support.nursery import nursery
from tests.support.ports import free_ports
from tests.support.runs import assert_same_columns, prepared, stored_columns, write_inputs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux alone has nurseries"),
]
ROOT = Path(__file__).parents[2]


def documented_lines():
    """Its commands; one over several lines is one."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "ray start" in block)
    return block.replace("\\\n", " ").splitlines()


def test_a_run_on_a_cluster_on_one_machine_is_that_of_a_plain_one(tmp_path, ray_folder):
    inputs = write_inputs(tmp_path, 6)
    *lines, stop = documented_lines()
    assert stop == "ray stop"
    assert any(line.startswith("ray start --head ") for line in lines)
    gcs, dashboard, client = free_ports(3)
    ports = f"--dashboard-port={dashboard} --ray-client-server-port={client}"
    script = "\n".join(lines)
    for told, meant in (
        ("6379", str(gcs)),
        # Ports that another Ray of this machine may have.
        ("ray start --head", f"ray start --head --object-store-memory=100000000 {ports}"),
        ("$PWD/my/manifest.parquet", str(inputs.manifest)),
        ("$PWD/my/run", str(tmp_path / "run")),
        ("facebook/timesformer-base-finetuned-k400", f"{inputs.model} --batch-size=2"),
    ):
        assert told in script
        script = script.replace(told, meant)
    user = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    user |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        # The token is kept there.
        "HOME": str(tmp_path / "home"),
        "RAY_TMPDIR": ray_folder,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    (tmp_path / "home").mkdir()
    log = tmp_path / "log"
    with nursery([["bash", "-euc", script]], environment=user, log=log):
        said = log.read_text()
    assert "Traceback" not in said
    assert "attribute: 6 clips: 6 ok" in said
    # Ray's own lines of a job.
    assert "worker.py" not in said
    execute_serially(prepared(inputs.config(tmp_path / "plain")))
    assert_same_columns(stored_columns(tmp_path / "run"), stored_columns(tmp_path / "plain"))
