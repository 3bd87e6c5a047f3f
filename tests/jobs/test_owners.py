"""Every job that writes into a run's folder holds the lease, and stops once it has lost it."""

import importlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from jobs import aggregate, audit, forget
from jobs.cli import run_job
from pipeline.store.ground_truth import write_ground_truth
from pipeline.store.lease import Times, leased
from pipeline.store.opening import open_store
from pipeline.store.run_folder import store_url
from tests.analysis.stores import random_columns, small_layout, write_run
from tests.support.runs import tree

TIMES = Times(renewal_s=0.1, settle_s=0.2, look_s=0.02)

WRITERS = {
    "aggregate": (),
    "audit": (),
    "evaluate": ("--ground-truth=truth.zarr",),
    "forget": ("--videos=videos.txt",),
    "verify": ("--repair",),
}
READERS = {"status": (), "verify": ()}


@pytest.fixture
def url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos.txt").write_text("clip3\n")
    # Nothing of it is read where the lease is somebody else's.
    write_ground_truth("truth.zarr", ("actor",), np.array([], object), (1, 1, 1), (), {})
    layout = small_layout(12)
    return write_run(tmp_path / "run", layout, random_columns(layout))


def run(verb, *argv, held=None):
    """Run a job; or where ``held`` gives a store and a lease, what it does once it has these."""
    module = importlib.import_module(f"jobs.{verb}")
    name = f"{verb.title()}Config"
    job = module.audit_run if verb == "audit" else getattr(module, verb)
    if held is not None:
        job = partial(BEHIND_THE_LEASE[verb], store=held[0], lease=held[1])
    return run_job(getattr(module, name), job, verb=verb, argv=argv)


@pytest.mark.parametrize("verb", WRITERS)
def test_who_writes_is_refused_while_somebody_else_does(verb, url, tmp_path, capsys):
    before = {path: data for path, data in tree(tmp_path).items() if path.name != "lease.json"}
    with leased(url, verb="attribute", times=TIMES):
        assert run(verb, url, *WRITERS[verb]) == 2
    stderr = capsys.readouterr().err.splitlines()
    assert stderr[-1].startswith(f"{verb}: error: attribute in process ")
    assert stderr[-1].endswith("or give --take-over if it can't be alive")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("verb", READERS)
def test_who_only_reads_is_not(verb, url, capsys):
    with leased(url, verb="attribute", times=TIMES):
        assert run(verb, url) == 0


BEHIND_THE_LEASE = {
    "aggregate": lambda config, store, lease: aggregate._aggregate(config, lease),
    "audit": audit._audit,
    "forget": partial(forget._forget, names=["clip3"]),
}
"""What jobs do once they have their lease."""


@pytest.mark.parametrize("verb", BEHIND_THE_LEASE)
def test_who_has_lost_the_lease_writes_nothing_more(verb, url, tmp_path, capsys):
    if verb != "aggregate":
        assert run("aggregate", url, "--no-report") == 0
    before = tree(tmp_path / "run" / "attributions.zarr")
    capsys.readouterr()
    with (
        leased(url, verb=verb, times=Times(renewal_s=100)) as lost,
        leased(url, verb="attribute", take_over=True, times=TIMES),
    ):
        store = open_store(store_url(url), mode="r+")
        assert run(verb, url, *WRITERS[verb], held=(store, lost)) == 1
    assert "was taken over by attribute" in capsys.readouterr().err.splitlines()[-1]
    assert tree(tmp_path / "run" / "attributions.zarr") == before
    made = {"aggregate": "statistics.zarr", "audit": "findings.parquet", "forget": "removed.json"}
    assert not (tmp_path / "run" / made[verb]).exists()


def test_who_takes_over_goes_on(url, capsys):
    with leased(url, verb="attribute", times=Times(renewal_s=100, settle_s=0.2)):
        assert run("verify", url, "--repair", "--take-over") == 0


def test_a_folder_without_a_run_gets_no_lease(tmp_path, capsys):
    assert run("aggregate", str(tmp_path / "typo")) == 2
    assert not (tmp_path / "typo").exists()


def test_a_run_of_before_is_told_to_have_no_checksums(url, capsys):
    assert run("verify", url) == 0
    assert "was written without checksums" in capsys.readouterr().err
    assert not (Path(url) / "lease.json").exists()
