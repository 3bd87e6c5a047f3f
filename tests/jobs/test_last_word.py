"""Whatever ends a job's process, the last line is the product's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "sigwaitinfo"), reason="Linux alone tells whom a signal is for"
)

ROOT = Path(__file__).parents[2]
HANG_S = 120
KEPT = "what was finished is kept, and the same command goes on\n"

JOB = """
import os, signal, sys, time
from jobs.last_word import tell_carried_out, with_last_word

def job():
    print("started", os.getpid(), flush=True)
    {body}

print("exit code", with_last_word(job, verb="attribute"))
"""


def started(body):
    return subprocess.Popen(
        [sys.executable, "-c", JOB.format(body=body)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(body):
    """Exit code that the job is given, and stderr."""
    process = started(body)
    stdout, stderr = process.communicate(timeout=HANG_S)
    return int(stdout.split("exit code")[1]), stderr


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_a_job_that_says_its_last_word_itself_has_it(code):
    said = "attribute: error: mine\\n"
    assert ended(f"sys.stderr.write('{said}'); return {code}") == (
        code,
        "attribute: error: mine\n",
    )


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed, as it is where the machine's memory"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
        ("os._exit(1)", "ended with code 1 and without a word, as Ray ends it"),
        ("os._exit(0)", "ended with code 0 and without a word"),
    ],
)
def test_a_job_that_ends_without_a_word_is_given_one(body, how):
    code, stderr = ended(body)
    assert code == 1
    last = stderr.splitlines(keepends=True)[-1]
    assert last.startswith("attribute: error: the job's process ")
    assert how in last
    assert last.endswith(KEPT)


def test_an_error_of_the_program_has_its_traceback_and_then_the_last_word():
    code, stderr = ended("raise ZeroDivisionError")
    assert code == 1
    assert stderr.startswith("Traceback")
    last = stderr.splitlines(keepends=True)[-1]
    assert last.startswith("attribute: error: ZeroDivisionError, an error of this program")
    assert last.endswith(KEPT)


def test_flags_that_were_carried_out_are_not_to_be_given_again():
    _, stderr = ended("tell_carried_out(['--overwrite']); os._exit(1)")
    assert stderr.endswith("kept, and the same command without --overwrite goes on\n")


RAYS = "[2026-11-28 19:10:26,461 {} 31848 31848] logging.cc:303: Set ray log level"


@pytest.mark.parametrize("ending", ["return 0", "os._exit(1)"])
def test_lines_of_rays_log_are_not_shown_and_others_of_native_code_are(ending):
    lines = [*(RAYS.format(level) for level in "IWE"), "a library speaks", RAYS.format("F")]
    body = f"os.write(2, {chr(10).join(lines)!r}.encode()); {ending}"
    _, stderr = ended(body)
    shown = stderr.splitlines()
    assert shown[:2] == ["a library speaks", RAYS.format("F")]
    assert len(shown) == (2 if ending == "return 0" else 3)


def test_stderr_is_a_terminal_for_a_job_whose_it_is():
    ours, theirs = os.openpty()
    code = JOB.format(body="return int(sys.stderr.isatty()) + 2 * os.isatty(2)")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=HANG_S,
        text=True,
    )
    os.close(ours)
    os.close(theirs)
    assert done.stdout.endswith("exit code 1\n")


def test_what_is_in_a_pipe_that_somebody_else_holds_does_not_hold_up_the_end():
    body = "import subprocess; subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL)"
    started_s = time.monotonic()
    process = started(f"{body}; os.write(2, b'said'); return 0")
    stdout, _ = process.communicate(timeout=HANG_S)
    assert "exit code 0" in stdout
    assert time.monotonic() - started_s < HANG_S
    os.killpg(process.pid, signal.SIGKILL)


def test_an_exit_of_argparse_is_the_jobs_own():
    assert ended("sys.exit(2)") == (2, "")
    assert ended("sys.exit(0)") == (0, "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_are_passed_on(name):
    process = started(
        # The handler prints nothing: the signal may come while `print` still flushes.
        f"signal.signal(signal.{name}, lambda *_: os._exit(9));"
        "print('ready', flush=True); time.sleep(600)"
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("started")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.Signals[name])
    _, stderr = process.communicate(timeout=HANG_S)
    assert "code 9 and without a word" in stderr


def test_the_job_ends_with_a_parent_that_is_killed():
    process = started("time.sleep(600)")
    assert process.stdout is not None
    child = int(process.stdout.readline().split()[1])
    process.kill()
    process.wait()
    deadline = time.monotonic() + HANG_S
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_threads_that_do_not_end_do_not_hold_up_the_end():
    body = "import threading; threading.Thread(target=time.sleep, args=(600,)).start(); return 0"
    assert ended(body)[0] == 0


def test_next_to_nothing_is_loaded_before_the_fork():
    code = (
        "import sys, jobs.attribute; loaded = {'ray', 'torch', 'transformers'};"
        "print(sorted(loaded & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.stdout == "[]\n", done.stderr
