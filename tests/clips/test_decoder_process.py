"""A decoder that hangs or dies costs its clip alone, and leaves nothing behind."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.clips.decode import Reading, read_frames
from pipeline.clips.decoder_process import N_TRIES, WAITS_S, ExpendableDecoder, process_decoder
from pipeline.clips.loader import ClipLoader
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import View, Views
from pipeline.status import DecodeError, Status
from tests.support.clips import numbered_frames, patch_mp4, read_numbers, write_mp4
from tests.support.stand_ins import DECODE as STAND_IN
from tests.support.stand_ins import KILLED_AT_START

SAMPLING = Sampling("uniform", 4)
WHOLE = Preprocessing(shortest_edge=96, crop=(96, 160))
READING = Reading(SAMPLING, WHOLE)
MEMORY = 2_000_000_000
ROOT = Path(__file__).resolve().parents[2]
LONG_S = 300.0
"""A limit that only what is stuck would come to."""
SHORT_S = 0.5
"""A limit for what hangs for ever."""
N_STARTS = len(WAITS_S) + 1


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    return write_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4", numbered_frames(40)).read_bytes()


@pytest.fixture
def decoder():
    # A stand-in's memory is there at once.
    decoder = ExpendableDecoder(STAND_IN, memory_bytes=MEMORY, waits_s=(0.01,) * (N_STARTS - 1))
    yield decoder
    decoder.close()


def decoded(decoder, data, timeout_s=LONG_S):
    frames = np.zeros((4, 96, 160, 3), np.uint8)
    (outcome,) = decoder.decode_into(frames[None], data, [READING], timeout_s=timeout_s)
    if isinstance(outcome, DecodeError):
        raise outcome
    return frames, outcome.frame_index


def failure(decoder, data, timeout_s=LONG_S):
    """Status and message; the frames must have been left alone."""
    frames = np.zeros((4, 96, 160, 3), np.uint8)
    (outcome,) = decoder.decode_into(frames[None], data, [READING], timeout_s=timeout_s)
    assert isinstance(outcome, DecodeError)
    assert not frames.any()
    return outcome.status, outcome.message


def pid_of(decoder, data):
    decoded(decoder, data)
    return decoder._child.pid


def is_running(pid):
    """Whether there is such a process, and it isn't just waiting to be reaped."""
    try:
        return re.search(r"State:\s+(\w)", Path(f"/proc/{pid}/status").read_text())[1] not in "ZX"
    except FileNotFoundError:
        return False


def test_the_child_gives_what_decoding_here_gives(decoder, mp4):
    frames, index = decoded(decoder, mp4)
    expected = read_frames(mp4, SAMPLING, WHOLE)
    assert np.array_equal(frames, expected.frames)
    assert index.tolist() == expected.frame_index.tolist() == read_numbers(frames)


def test_one_child_decodes_clip_after_clip_also_after_ones_that_fail(decoder, mp4):
    first = pid_of(decoder, mp4)
    assert failure(decoder, b"") == (Status.EMPTY, "the file has no bytes")
    assert failure(decoder, mp4[:-500])[0] is Status.TRUNCATED
    assert pid_of(decoder, mp4) == first


@pytest.mark.parametrize("data", [b"STAND-IN hang", b"STAND-IN stop"])
def test_what_hangs_is_killed_and_the_next_clip_is_decoded(decoder, mp4, data):
    child = pid_of(decoder, mp4)
    assert failure(decoder, data, SHORT_S) == (
        Status.TIMEOUT,
        "decoding took longer than 0.5 s in each of 2 tries",
    )
    assert not is_running(child)
    decoded(decoder, mp4)


def test_what_the_child_never_takes_runs_into_the_limit_and_another_child_takes_it(decoder, mp4):
    child = pid_of(decoder, mp4)
    os.kill(child, signal.SIGSTOP)
    # Far more than the pipe holds by itself.
    assert failure(decoder, bytes(5_000_000), 5.0)[0] is Status.UNREADABLE
    assert not is_running(child)


@pytest.mark.slow
def test_a_clip_that_was_slow_once_is_decoded(decoder, tmp_path):
    (tmp_path / "once").touch()
    assert (decoded(decoder, f"STAND-IN hang-while {tmp_path}".encode(), 20.0)[0] == 7).all()
    assert not list(tmp_path.iterdir())


def test_time_in_which_the_machine_is_frozen_is_not_counted():
    script = (
        "from tests.clips.test_decoder_process import *\n"
        "decoder = ExpendableDecoder(STAND_IN, memory_bytes=MEMORY)\n"
        "decoded(decoder, b'STAND-IN other')\n"
        "print(decoder._child.pid, flush=True)\n"
        "print(decoded(decoder, b'STAND-IN sleep 1', 4.0)[0].max(), flush=True)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    child = int(parent.stdout.readline())
    pids = (parent.pid, child)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    # Longer than the limit: a clock that goes on would stop the child before it can answer.
    time.sleep(5)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert parent.communicate(timeout=LONG_S)[0].strip() == "7"
    assert not is_running(child)


def test_a_view_that_takes_the_child_down_costs_no_other_view(decoder):
    other = Reading(Sampling("uniform", 3), WHOLE)
    frames = np.zeros((3, 4, 96, 160, 3), np.uint8)
    outcomes = decoder.decode_into(
        frames, b"STAND-IN exit-for 3", [READING, other, READING], timeout_s=LONG_S
    )
    statuses = [getattr(outcome, "status", Status.OK) for outcome in outcomes]
    assert statuses == [Status.OK, Status.CRASHED, Status.OK]
    assert (frames[[0, 2]] == 7).all()
    assert not frames[1].any()


@pytest.mark.parametrize("what", ["exit", "segfault", "half", "raise", "allocate 4000000000"])
def test_what_takes_the_child_down_is_tried_again_and_then_crashed(decoder, mp4, what, caplog):
    decoded(decoder, mp4)
    with caplog.at_level(logging.WARNING):
        status, message = failure(decoder, f"STAND-IN {what}".encode())
    assert (status, message) == (
        Status.CRASHED,
        "the decoder took its process down in each of 3 tries",
    )
    codes = {"exit": 3, "segfault": -signal.SIGSEGV, "half": -signal.SIGKILL}
    code = codes.get(what, 1)
    assert caplog.messages == [
        f"the decoder ended with code {code} in try {attempt} of {N_TRIES}"
        for attempt in range(1, N_TRIES + 1)
    ]
    decoded(decoder, mp4)


@pytest.mark.parametrize("n_crashes", [1, N_TRIES - 1, N_TRIES])
def test_a_clip_whose_child_died_of_something_else_is_decoded(decoder, tmp_path, n_crashes):
    for number in range(n_crashes):
        (tmp_path / str(number)).touch()
    data = f"STAND-IN crash {tmp_path}".encode()
    if n_crashes < N_TRIES:
        assert (decoded(decoder, data)[0] == 7).all()
    else:
        assert failure(decoder, data)[0] is Status.CRASHED
    assert not list(tmp_path.iterdir())


def test_a_child_that_dies_between_two_clips_is_replaced_at_no_clips_cost(decoder, mp4, caplog):
    child = pid_of(decoder, mp4)
    os.kill(child, signal.SIGKILL)
    decoder._child.wait()
    assert pid_of(decoder, mp4) != child
    assert not caplog.messages


def test_a_real_file_that_crashes_the_real_decoder(tmp_path, mp4):
    decoder = ExpendableDecoder(memory_bytes=MEMORY)
    path = tmp_path / "clip.mp4"
    path.write_bytes(mp4)
    # The place of the first frames, in the file's index: beyond the file.
    data = patch_mp4(path, b"stco", 12, b"\x7f\xff\xff\xff").read_bytes()
    frames = np.zeros((1, 4, 96, 160, 3), np.uint8)
    (outcome,) = decoder.decode_into(frames, data, [READING], decoder="decord", timeout_s=LONG_S)
    assert outcome.status is Status.CRASHED
    assert failure(decoder, data)[0] is Status.UNREADABLE
    assert read_numbers(decoded(decoder, mp4)[0]) == [5, 15, 25, 35]
    decoder.close()


def test_frames_of_another_shape_than_the_models_are_an_error_of_the_run(decoder):
    with pytest.raises(ValueError, match=r"\[1, 1, 1, 3\], expected \[4, 96, 160, 3\]"):
        decoded(decoder, b"STAND-IN shape")


def test_a_child_that_can_not_start_is_no_failure_of_a_clip_and_is_started_once(capfd):
    decoder = ExpendableDecoder("tests.support.stand_ins:absent", memory_bytes=MEMORY)
    with pytest.raises(RuntimeError, match="can't be started: it ended with code 1"):
        decoded(decoder, b"")
    assert capfd.readouterr().err.count("has no attribute 'absent'") == 1


@pytest.fixture
def left_to_kill(tmp_path, monkeypatch):
    """Folder with a file for each child that is to be killed while it starts."""
    monkeypatch.setenv(KILLED_AT_START, str(tmp_path))
    return tmp_path


def kill_at_start(folder, n_children):
    for number in range(n_children):
        (folder / str(number)).touch()


@pytest.mark.parametrize("n_killed", [1, N_STARTS - 1])
def test_a_child_that_is_killed_while_it_starts_is_started_again_at_no_clips_cost(
    decoder, mp4, left_to_kill, caplog, n_killed
):
    kill_at_start(left_to_kill, n_killed)
    assert read_numbers(decoded(decoder, mp4)[0]) == [5, 15, 25, 35]
    assert not list(left_to_kill.iterdir())
    assert (
        caplog.messages
        == ["the decoder was killed while it started; trying again in 0.01 s"] * n_killed
    )


def test_a_child_that_is_killed_in_every_start_is_an_error_of_the_machine(
    decoder, mp4, left_to_kill
):
    kill_at_start(left_to_kill, N_STARTS + 1)
    with pytest.raises(RuntimeError, match=f"was killed in each of {N_STARTS} starts.* memory"):
        decoded(decoder, mp4)
    assert len(list(left_to_kill.iterdir())) == 1
    # Nothing is left of it that the next clip would wait for.
    decoded(decoder, b"STAND-IN other")


def test_a_child_that_dies_of_its_clip_and_another_that_is_killed_at_its_start(
    decoder, mp4, left_to_kill, tmp_path_factory
):
    decoded(decoder, mp4)
    crashes = tmp_path_factory.mktemp("crashes")
    (crashes / "once").touch()
    kill_at_start(left_to_kill, 2)
    assert (decoded(decoder, f"STAND-IN crash {crashes}".encode())[0] == 7).all()
    assert not list(left_to_kill.iterdir())


def test_an_interrupted_exchange_does_not_answer_for_the_next_clip(decoder, mp4, monkeypatch):
    decoded(decoder, mp4)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(decoder._connection, "recv_bytes_into", interrupt, raising=False)
        with pytest.raises(KeyboardInterrupt):
            decoded(decoder, b"STAND-IN other")
    assert read_numbers(decoded(decoder, mp4)[0]) == [5, 15, 25, 35]


def test_closing_ends_the_child(decoder, mp4):
    child = pid_of(decoder, mp4)
    decoder.close()
    assert not is_running(child)
    decoder.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends with its clip")
@pytest.mark.parametrize("doing", ["other", "hang"])
def test_the_child_dies_with_its_parent_also_while_it_decodes(doing):
    script = (
        "import sys, threading, time, numpy as np\n"
        "from tests.clips.test_decoder_process import *\n"
        "decoder = ExpendableDecoder(STAND_IN, memory_bytes=MEMORY)\n"
        "child = pid_of(decoder, b'STAND-IN other')\n"
        "print(child, flush=True)\n"
        f"decoded(decoder, b'STAND-IN {doing}')\n"
        "time.sleep(1000)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    child = int(parent.stdout.readline())
    assert is_running(child)
    parent.kill()
    # The pipe ends when no one holds it, and the child held it too.
    parent.communicate(timeout=LONG_S)
    deadline = time.monotonic() + LONG_S
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_child_loads_neither_torch_nor_ray_and_one_decoder():
    script = (
        "import sys, pipeline.clips.decoder_process, pipeline.clips.libav_recording;"
        "heavy = {'ray', 'torch', 'transformers', 'pandas', 'decord', 'pydantic', 'fsspec'};"
        "print(heavy & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_batch_goes_on_beside_clips_that_hang_and_crash_and_twice_gives_the_same(tmp_path, mp4):
    contents = {
        "a.mp4": mp4,
        "hang.mp4": b"STAND-IN hang",
        "b.mp4": mp4,
        "segfault.mp4": b"STAND-IN segfault",
        "empty.mp4": b"",
        "c.mp4": mp4,
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    loader = ClipLoader(
        root=str(tmp_path),
        views=Views((View(SAMPLING, WHOLE),)),
        input_size=WHOLE.crop,
        class_of_label={},
        decode_timeout_s=2.0,
        decode=STAND_IN,
    )
    n_clips = len(contents)
    rows = {
        "row": np.arange(n_clips),
        "video_id": np.array(list(contents), object),
        "path": np.array(list(contents), object),
        "label": np.full(n_clips, None),
        "start_time": np.zeros(n_clips),
    }
    first, second = loader(rows), loader(rows)
    process_decoder(STAND_IN, loader.decode_memory_bytes).close()
    ok, timeout, crashed, empty = Status.OK, Status.TIMEOUT, Status.CRASHED, Status.EMPTY
    assert first["status"].tolist() == [ok, timeout, ok, crashed, empty, ok]
    good = first["status"] == ok
    for frames, index in zip(first["frames"][good], first["frame_index"][good], strict=True):
        assert read_numbers(frames) == index.tolist() == [5, 15, 25, 35]
    assert not first["frames"][~good].any()
    assert (first["frame_index"][~good] == -1).all()
    for name, column in first.items():
        np.testing.assert_array_equal(column, second[name])
