"""The front door: `staa` and `python -m jobs.VERB` in fresh interpreters, until a job starts."""

import json
import signal
import subprocess
import sys

import pytest

from jobs.__main__ import verbs
from tests.support.processes import HANG_S

VERBS = sorted(verbs())
HEAVY = ("torch", "transformers", "ray", "zarr", "xarray", "matplotlib", "decord")


def staa(*argv):
    """What the console command does, called as its script calls it."""
    code = "import sys; sys.argv[0] = 'bin/staa'; from jobs.__main__ import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=HANG_S
    )


def module(*argv):
    return subprocess.run(
        [sys.executable, "-m", *argv], capture_output=True, text=True, timeout=HANG_S
    )


def told(result):
    return result.returncode, result.stdout, result.stderr


def test_help_has_a_line_for_each_verb():
    result = staa("--help")
    assert result.returncode == 0
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines() if line[:2] == "  "]
    assert dict(lines) == verbs()
    assert set(VERBS) >= {"attribute", "manifest", "status", "aggregate"}
    assert all(summary and "``" not in summary for summary in verbs().values())


def test_without_a_verb_the_same_is_bad_usage():
    result = staa()
    assert told(result) == (2, "", staa("--help").stdout)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("atribute", "did you mean 'attribute'?"),
        ("agregate", "did you mean 'aggregate'?"),
        ("cli", None),
        ("--nope", None),
        ("xyz", None),
    ],
)
def test_a_word_that_is_no_verb_is_one_line(word, hint):
    exit_code, stdout, stderr = told(staa(word))
    assert (exit_code, stdout) == (2, "")
    expected = hint or f"expected one of {', '.join(VERBS)}"
    assert stderr == f"staa: error: {word!r} is not a verb; {expected}\n"


def test_the_version_is_that_of_the_package():
    from pipeline import __version__

    assert told(staa("--version")) == (0, f"staa {__version__}\n", "")


@pytest.mark.parametrize("verb", ["attribute", "status"])
def test_a_verb_of_staa_is_the_module(verb, tmp_path):
    assert staa(verb, "--help").stdout.startswith(f"usage: staa {verb} ")
    assert module(f"jobs.{verb}", "--help").stdout.startswith(f"usage: python -m jobs.{verb} ")
    as_verb, as_module = staa(verb, "--nope"), module(f"jobs.{verb}", "--nope")
    assert as_verb.returncode == 2
    assert told(as_verb) == told(as_module)


def test_what_is_wrong_is_said_before_anything_heavy_is_loaded(tmp_path):
    (tmp_path / "run.yaml").write_text("colour: red\n")
    # One interpreter for all verbs: what one of them loads is seen after it.
    code = f"""
import contextlib, io, json, runpy, sys
told = {{}}
for verb in {VERBS!r}:
    said = []
    for argv in (["--help"], ["--colour", "red"], ["--config", {str(tmp_path / "run.yaml")!r}]):
        sys.argv = ["python", *argv]
        # Another verb may have imported it, which Python would warn of.
        sys.modules.pop(f"jobs.{{verb}}", None)
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                runpy.run_module(f"jobs.{{verb}}", run_name="__main__")
            except SystemExit as ended:
                said.append([ended.code, out.getvalue()])
    told[verb] = [said, [name for name in {HEAVY!r} if name in sys.modules]]
print(json.dumps(told))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S
    )
    told = json.loads(result.stdout)
    assert list(told) == VERBS
    for verb, (said, loaded) in told.items():
        assert loaded == [], verb
        assert [exit_code for exit_code, _ in said] == [0, 2, 2], verb
        assert said[0][1].startswith("usage: ")
        for _, line in said[1:]:
            assert line.startswith(f"{verb}: error: ")
            assert line.count("\n") == 1


def heed_ctrl_c():
    """What a terminal's foreground job does, also where the tests are a background job."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def inputs(tmp_path):
    from tests.support.runs import write_inputs

    return write_inputs(tmp_path, 2)


@pytest.mark.parametrize(
    ("imported", "by", "last_line"),
    [
        ("pydantic", signal.SIGINT, "attribute: interrupted; nothing was started"),
        ("pydantic", signal.SIGTERM, "attribute: terminated; nothing was started"),
        # Torch and Ray are loaded by the job.
        ("torch", signal.SIGINT, "attribute: interrupted; what was finished is kept"),
        ("ray", signal.SIGTERM, "attribute: terminated; what was finished is kept"),
    ],
)
def test_a_signal_while_modules_are_loaded_is_one_line(inputs, tmp_path, imported, by, last_line):
    # Python says on stderr which module it has loaded, so the signal meets it in the act.
    command = [sys.executable, "-X", "importtime", "-m", "jobs.attribute"]
    with subprocess.Popen(
        [*command, *inputs.flags(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    ) as job:
        for line in job.stderr:
            if line.rpartition("|")[2].strip().partition(".")[0] == imported:
                job.send_signal(by)
                break
        stdout, rest = job.communicate(timeout=HANG_S)
    said = [line for line in rest.splitlines() if not line.startswith("import time:")]
    assert (job.returncode, stdout, said) == (128 + by, "", [last_line])
    assert not (tmp_path / "run").exists()


def test_a_background_job_ignores_ctrl_c():
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "import sys; sys.argv = ['staa', 'status']; import jobs; "
        "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN; "
        "assert signal.getsignal(signal.SIGTERM) is jobs._leave"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANG_S)


def test_a_library_that_imports_the_package_keeps_its_signals():
    code = (
        "import signal, jobs; "
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler; "
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, check=True, timeout=HANG_S, preexec_fn=heed_ctrl_c)
