"""A run has one owner: who is refused, who is taken over, and who stops writing."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import fsspec
import pytest

from pipeline.errors import LeaseError, LeaseLostError, StoreError
from pipeline.run.job import real_stages
from pipeline.run.serial import execute_serially
from pipeline.run.steps import CHECK_S
from pipeline.storage.files import read_bytes, write_bytes
from pipeline.store.lease import Holder, Times, _swapped, _this_process, held_by, leased
from pipeline.store.run_folder import lease_url
from tests.support.object_storage import BUCKET, OWNER, environment
from tests.support.processes import until
from tests.support.runs import objects, pending_shards, prepared, run_attribute, write_inputs

TIMES = Times(expiry_s=60, renewal_s=0.1, settle_s=0.2, look_s=0.02)
"""Renewed in a moment; what isn't would be watched for as long as in a real run."""
SOON = replace(TIMES, expiry_s=0.5)
HANG_S = 120

ELSEWHERE = Holder("another-host", 17, "another-boot/pid:[1]", "4711", "attribute")


def put(run, holder, token="t", renewals=0):
    """Leave a lease behind, as a process that renews it no more."""
    values = {"token": token, "holder": asdict(holder), "renewals": renewals}
    write_bytes(lease_url(run), json.dumps(values).encode())


def holder_that_has_ended():
    """A process of this host that held a lease and was killed."""
    code = """
import json
from dataclasses import asdict
from pipeline.store.lease import _this_process
print(json.dumps(asdict(_this_process("attribute"))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return Holder(**json.loads(done.stdout))


@pytest.fixture(params=["disk", "memory"])
def run(request, tmp_path):
    """Folder of a run, on storages that create on condition each in its own way."""
    return str(tmp_path / "run") if request.param == "disk" else f"memory://{tmp_path.name}/run"


def test_a_lease_is_there_while_it_is_held_and_gone_after(run):
    with leased(run, verb="attribute", times=TIMES) as lease:
        assert lease.url == lease_url(run)
        assert held_by(run) == _this_process("attribute")
        lease.check()
        first = read_bytes(lease.url)
        until(lambda: read_bytes(lease.url) != first, seconds=HANG_S)
        lease.check()
    assert held_by(run) is None
    with pytest.raises(FileNotFoundError):
        read_bytes(lease_url(run))


def test_a_second_driver_is_refused_and_the_first_is_not_disturbed(run):
    with leased(run, verb="attribute", times=TIMES) as lease:
        with (
            pytest.raises(LeaseError, match=r"attribute in process \d+ on .*--take-over"),
            leased(run, verb="attribute", times=TIMES),
        ):
            pass
        lease.check()


def n_leases_of_drivers_that_start_at_once(run, n_drivers):
    barrier, all_tried = threading.Barrier(n_drivers), threading.Barrier(n_drivers)

    def drive(_):
        barrier.wait(HANG_S)
        try:
            with leased(run, verb="attribute", times=TIMES) as lease:
                all_tried.wait(HANG_S)
                lease.check()
                return True
        except LeaseError:
            all_tried.wait(HANG_S)
            return False

    with ThreadPoolExecutor(n_drivers) as pool:
        return sum(pool.map(drive, range(n_drivers)))


@pytest.mark.parametrize("n_drivers", [2, 5])
def test_of_drivers_that_start_at_once_one_gets_the_lease(tmp_path, n_drivers):
    assert n_leases_of_drivers_that_start_at_once(str(tmp_path / "run"), n_drivers) == 1


def test_a_lease_whose_process_on_this_host_is_gone_is_taken_over_at_once(run):
    put(run, holder_that_has_ended())
    assert held_by(run) is None
    with leased(run, verb="attribute", times=TIMES) as lease:
        lease.check()


def test_a_process_id_that_was_given_again_is_another_process(run):
    put(run, replace(_this_process("attribute"), started="1"))
    with leased(run, verb="attribute", times=TIMES):
        pass


def test_a_lease_from_elsewhere_is_watched_and_taken_over_if_it_isn_t_renewed(run):
    put(run, ELSEWHERE)
    assert held_by(run) == ELSEWHERE
    with leased(run, verb="attribute", times=SOON) as lease:
        lease.check()


def test_a_lease_from_elsewhere_that_is_renewed_is_respected(run):
    put(run, ELSEWHERE)
    stop = threading.Event()

    def renew():
        count = 0
        while not stop.wait(0.05):
            count += 1
            put(run, ELSEWHERE, renewals=count)

    renewer = threading.Thread(target=renew)
    renewer.start()
    try:
        with (
            pytest.raises(LeaseError, match="process 17 on another-host"),
            leased(run, verb="attribute", times=TIMES),
        ):
            pass
    finally:
        stop.set()
        renewer.join()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"token": 1, "holder": {"pid": 1}}'])
def test_a_lease_that_can_not_be_read_is_taken_over_once_it_has_not_changed(run, text):
    write_bytes(lease_url(run), text)
    with leased(run, verb="attribute", times=SOON) as lease:
        lease.check()


def test_a_lease_that_vanishes_while_it_is_watched_is_free(run):
    put(run, ELSEWHERE)

    def vanish():
        filesystem, path = fsspec.core.url_to_fs(lease_url(run))
        filesystem.rm_file(path)

    timer = threading.Timer(0.2, vanish)
    timer.start()
    with leased(run, verb="attribute", times=TIMES) as lease:
        lease.check()


def test_take_over_takes_it_from_a_driver_that_then_sees_it(run):
    with leased(run, verb="attribute", times=replace(TIMES, renewal_s=HANG_S)) as first:
        with leased(run, verb="attribute", take_over=True, times=TIMES) as second:
            second.check()
            with pytest.raises(LeaseLostError, match="was taken over by attribute in process"):
                first.check()
        with pytest.raises(LeaseLostError, match="is gone"):
            first.check()


def test_who_lost_a_lease_neither_renews_nor_deletes_it(run):
    with leased(run, verb="attribute", times=TIMES):
        put(run, ELSEWHERE)
        time.sleep(5 * TIMES.renewal_s)
    assert held_by(run) == ELSEWHERE


def test_a_folder_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(StoreError, match=r"out: can't write .*file/run/lease\.json"),
        leased(str(tmp_path / "file" / "run"), verb="attribute", times=TIMES),
    ):
        pass


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("lease"), 14)


def test_a_driver_whose_run_was_taken_over_writes_nothing_more(inputs, tmp_path, capsys):
    out = tmp_path / "run"

    def execute(plan, lease):
        def stages_of(plan, device, channel):
            stages = real_stages(plan, device, channel)

            def load(rows):
                if 8 in rows["row"]:
                    put(str(out), ELSEWHERE)
                    # As whoever takes over does, and longer.
                    time.sleep(CHECK_S)
                return stages.load(rows)

            return replace(stages, load=load)

        return execute_serially(plan, lease, stages_of=stages_of)

    assert run_attribute(inputs.flags(out), execute) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("attribute: error: ")
    assert "was taken over by attribute in process 17 on another-host" in last
    assert pending_shards(out) == [2, 3]
    assert not (out / "failures.parquet").exists()


def test_a_second_command_is_refused_with_one_line_and_changes_nothing(inputs, tmp_path, capsys):
    out = tmp_path / "run"
    execute_serially(prepared(inputs.config(out)))
    before = objects(out)
    with leased(str(out), verb="attribute", times=TIMES):
        for flags in ((), ("--overwrite",), ("--retry-failed=all",)):
            capsys.readouterr()
            assert run_attribute(inputs.flags(out, "--serial", *flags)) == 2
            stderr = capsys.readouterr().err.splitlines()
            assert stderr[-1].startswith("attribute: error: attribute in process ")
    assert objects(out) == before


def test_the_command_leaves_no_lease(inputs, tmp_path):
    out = tmp_path / "run"
    assert run_attribute(inputs.flags(out, "--serial")) == 0
    assert not Path(lease_url(str(out))).exists()


def test_bad_input_takes_no_lease(inputs, tmp_path):
    assert run_attribute(inputs.flags(tmp_path / "run", "--serial", "--method.layers=9")) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("n_drivers", [2, 5])
def test_of_drivers_that_take_over_at_once_one_gets_the_lease(tmp_path, n_drivers):
    run = str(tmp_path / "run")
    put(run, holder_that_has_ended())
    assert n_leases_of_drivers_that_start_at_once(run, n_drivers) == 1


def test_a_lease_is_written_over_only_as_it_was_read(tmp_path):
    url = lease_url(str(tmp_path / "run"))
    write_bytes(url, b"first")
    assert _swapped(url, "first", b"second") is True
    assert _swapped(url, "first", b"third") is False
    assert read_bytes(url) == b"second"


def test_a_folder_that_somebody_holds_locked_is_not_waited_for(tmp_path):
    url = lease_url(str(tmp_path))
    write_bytes(url, b"first")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        assert _swapped(url, "first", b"second") is None
    finally:
        os.close(folder)


@pytest.mark.slow
def test_on_s3_a_lease_is_written_over_only_as_it_was_read(s3_server, monkeypatch):
    with environment(monkeypatch, OWNER.environment(s3_server)):
        url = lease_url(f"s3://{BUCKET}/leases/swapped")
        write_bytes(url, b"first")
        assert _swapped(url, "first", b"second") is True
        assert _swapped(url, "first", b"third") is False
        assert read_bytes(url) == b"second"
        # Between the look and the write of one the others write: the storage itself refuses.
        texts = [f"of {driver}".encode() for driver in range(8)]
        barrier = threading.Barrier(len(texts))

        def swap(text):
            barrier.wait(HANG_S)
            return _swapped(url, "second", text)

        with ThreadPoolExecutor(len(texts)) as pool:
            swapped = list(pool.map(swap, texts))
        assert sorted(swapped) == [False] * 7 + [True]
        assert read_bytes(url) == texts[swapped.index(True)]


@pytest.mark.slow
def test_on_s3_one_of_several_drivers_gets_the_lease(s3_server, monkeypatch):
    with environment(monkeypatch, OWNER.environment(s3_server)):
        run = f"s3://{BUCKET}/leases/run"
        assert n_leases_of_drivers_that_start_at_once(run, 5) == 1
        put(run, ELSEWHERE)
        with leased(run, verb="attribute", times=SOON) as lease:
            lease.check()
