"""The tally of a run: each row is counted once, and what went wrong is a value."""

import logging
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ManifestChangedError, StorageError
from pipeline.run.tally import (
    Commit,
    Fault,
    LocalChannel,
    Progress,
    Report,
    Tally,
    pace_of,
    shown_progress,
)

ROWS_PER_SHARD, N_ROWS = 4, 14


def rows_of(shard):
    return range(shard * ROWS_PER_SHARD, min((shard + 1) * ROWS_PER_SHARD, N_ROWS))


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("decoded"), st.integers(0, N_ROWS - 1)),
        st.tuples(st.just("explained"), st.integers(0, N_ROWS - 1)),
        st.tuples(st.just("commit"), st.integers(0, 3)),
        st.tuples(st.just("end of pass"), st.none()),
    ),
    max_size=60,
)


@given(EVENTS)
def test_each_row_is_counted_once_in_whatever_order_it_is_told(events):
    tally = Tally(ROWS_PER_SHARD)
    decoded, explained, committed = set(), set(), set()
    for what, which in events:
        if what == "commit":
            tally.commit(Commit(which * ROWS_PER_SHARD, {"ok": len(rows_of(which))}, 1))
            committed |= set(rows_of(which))
        elif what == "end of pass":
            tally.end_pass()
            decoded, explained = set(), set()
        elif what == "decoded":
            tally.report(Report(decoded=[which]))
            decoded |= {which} - committed
        else:
            tally.report(Report(explained=[which], decoded=[which]))
            decoded |= {which} - committed
            explained |= {which} - committed
    progress = tally.progress()
    assert progress.committed == len(committed)
    assert progress.explained == len(explained | committed)
    assert progress.decoded == len(decoded | explained | committed)


def test_a_shard_that_is_committed_twice_is_counted_once():
    tally = Tally(4)
    news = [tally.commit(Commit(4, {"ok": 3, "missing": 1}, 100)) for _ in range(2)]
    tally.commit(Commit(0, {"ok": 4}, 100))
    assert news == [True, False]
    assert (tally.progress().committed, tally.progress().failed) == (8, 1)


def test_a_step_tells_what_it_failed_on_before_it_raises():
    tally = Tally(4)
    channel = LocalChannel(tally)
    with pytest.raises(StorageError), channel.step("decode", np.arange(8, 12)):
        raise StorageError("clips/a.mp4\nat https://u:secret@host/a: refused")
    (fault,) = tally.end_pass()
    assert (fault.stage, fault.rows) == ("decode", (8, 11))
    assert "secret" not in str(fault)
    assert str(fault).startswith("rows 8 to 11: clips/a.mp4 at https://")
    assert tally.progress().decoded == 0
    assert tally.end_pass() == ()


def test_a_manifest_that_was_changed_is_not_the_fault_of_rows():
    tally = Tally(4)
    with (
        pytest.raises(ManifestChangedError),
        LocalChannel(tally).step("read", np.arange(8, 12)),
    ):
        raise ManifestChangedError("manifest m was changed")
    assert tally.end_pass() == (Fault("read", "manifest m was changed", None),)


def test_steps_tell_their_rows_and_seconds():
    tally = Tally(4)
    channel = LocalChannel(tally)
    for stage in ("decode", "explain", "write"):
        with channel.step(stage, np.arange(3)):
            time.sleep(0.01)
    progress = tally.progress()
    assert (progress.decoded, progress.explained, progress.committed) == (3, 3, 0)
    assert all(progress.seconds[stage] >= 0.01 for stage in ("decode", "explain", "write"))


def test_the_bar_goes_on_from_what_an_earlier_run_did(capsys):
    tally = Tally(4)
    with shown_progress(tally.progress, n_rows=20, n_done=8):
        tally.commit(Commit(8, {"ok": 3, "missing": 1}, 100))
        tally.commit(Commit(12, {"ok": 2, "missing": 1, "empty": 1}, 100))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("attribute:")
    assert "16/20" in last
    assert "failed=3" in last


def test_the_first_clip_is_shown_long_before_its_shard_is_stored(capsys):
    tally = Tally(256)
    shown = ""
    with shown_progress(tally.progress, n_rows=512, n_done=0):
        tally.report(Report(decoded=[0]))
        deadline = time.monotonic() + 60
        while "decoded=1" not in shown:
            assert time.monotonic() < deadline
            time.sleep(0.01)
            shown += capsys.readouterr().err
        tally.report(Report(explained=range(8)))
    assert "8/512" in capsys.readouterr().err.splitlines()[-1]


def test_a_pass_that_breaks_off_takes_back_what_it_did_not_store(capsys):
    tally = Tally(4)
    with shown_progress(tally.progress, n_rows=8, n_done=0):
        tally.report(Report(explained=range(6)))
        tally.commit(Commit(0, {"ok": 4}, 1))
        tally.end_pass()
    assert "4/8" in capsys.readouterr().err.splitlines()[-1]


def test_progress_that_cannot_be_read_is_not_shown_and_hides_nothing(capsys):
    with shown_progress(lambda: None, n_rows=4, n_done=0):
        pass
    assert "0/4" in capsys.readouterr().err


def test_in_json_progress_is_a_record(caplog):
    tally = Tally(4)
    caplog.set_level(logging.INFO, "pipeline")
    with shown_progress(tally.progress, n_rows=4, n_done=0, log_format="json"):
        tally.commit(Commit(0, {"ok": 4}, 1))
    last = caplog.records[-1]
    assert last.fields["done"] == 4
    assert last.fields["stored"] == 4


def test_who_watches_hears_how_long_nothing_was_heard():
    tally = Tally(4)
    heard: list[Progress] = []
    time.sleep(0.1)
    with shown_progress(tally.progress, n_rows=4, n_done=0, watch=heard.append):
        pass
    assert heard[-1].silent_s >= 0.1
    tally.report(Report())
    assert tally.progress().silent_s < heard[-1].silent_s


def progress_of(**seconds):
    return Progress(
        decoded=80, explained=80, committed=80, failed=0, silent_s=0, working_s=40, n_models=1,
        seconds=seconds,
    )  # fmt: skip


def test_the_end_says_the_rate_the_busiest_step_and_what_decoding_lacks():
    slow_decoding = progress_of(read=500, decode=76, explain=20, transfer=4, write=8)
    pace = pace_of(slow_decoding, n_cpus=2, n_writers=4)
    assert str(pace) == (
        "2 clips/s, bounded by decoding (busy: decoding 95%, the transfer to the device 10%, the "
        "models 40%, the storage 5%); 2 more cores of decoding would keep the models busy"
    )
    # A model does 4 clips/s, and a core decodes 80 of them in 76 s.
    assert pace.cores_lacking == pytest.approx(4 * 76 / 80 - 2)
    assert pace_of(Tally(4).progress(), n_cpus=2, n_writers=4) is None


def test_no_core_is_said_to_lack_where_decoding_and_the_model_take_turns():
    slow_decoding = progress_of(read=500, decode=76, explain=20, transfer=4, write=8)
    pace = pace_of(slow_decoding, n_cpus=1, n_writers=1, in_turn=True)
    assert pace.cores_lacking == 0
    assert "bounded by decoding" in str(pace)


def test_where_every_clip_has_failed_it_is_not_known_what_decoding_lacks():
    failed = replace(progress_of(decode=80, explain=0.001), failed=80)
    pace = pace_of(failed, n_cpus=2, n_writers=4)
    assert pace.cores_lacking == 0
    assert pace.bounded_by == "decode"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"decode": 20, "explain": 39, "transfer": 1, "write": 1}, "model"),
        ({"decode": 20, "explain": 39, "transfer": 30, "write": 1}, "transfer"),
        ({"decode": 20, "explain": 5, "write": 150}, "storage"),
        # Clips that are slow to come are no want of CPUs.
        ({"decode": 79, "fetch": 70, "explain": 5, "write": 1}, "storage"),
        ({"decode": 79, "fetch": 10, "explain": 5, "write": 1}, "decode"),
    ],
)
def test_what_bounds_a_run_is_named(seconds, expected):
    assert pace_of(progress_of(**seconds), n_cpus=2, n_writers=4).bounded_by == expected


def test_parts_of_steps_are_told():
    tally = Tally(4)
    channel = LocalChannel(tally)
    channel.holds_model()
    for stage in ("fetch", "transfer", "forward"):
        with channel.part(stage):
            time.sleep(0.01)
    progress = tally.progress()
    assert progress.seconds.keys() == {"fetch", "transfer"}
    assert all(seconds >= 0.01 for seconds in progress.seconds.values())
    assert progress.n_models == 1


def test_work_begins_with_the_step_that_decodes_the_first_clip():
    tally = Tally(4)
    channel = LocalChannel(tally)
    made_s = time.monotonic()
    time.sleep(0.2)
    with channel.step("decode", np.arange(4)):
        time.sleep(0.05)
        # What is told of the first clip alone has no time.
        channel.decoded(0)
    with channel.step("decode", np.arange(4, 8)):
        pass
    assert 0.05 <= tally.progress().working_s <= time.monotonic() - made_s - 0.2
