"""Settings as anyone may write them: one line for whatever is wrong, and none is carried out."""

import os
import threading
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from jobs.cli import NOBODY_READS, parse, run_job
from jobs.settings import MAX_LEVELS, read_settings
from pipeline.errors import ConfigError
from pipeline.run.config import AttributeJob
from tests.support.mutations import mutated_bytes, mutated_text, seed_of_the_day

REQUIRED = ("--manifest=clips.parquet", "--model=small", "--out=run")
N_MUTATED = 300

FILES = {
    "nested": ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply, expected at most"),
    "nested keys": ("\n".join(" " * n + "a:" for n in range(200)), "nested too deeply"),
    "aliases": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
            for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "more than 10,000 values",
    ),
    "alias of itself": ("a: &a [*a]", "line 1: an alias refers to itself"),
    "twice": ("batch_size: 4\nout: a\nbatch_size: 8", "line 3: 'batch_size' is given twice"),
    "twice in a group": ("method:\n  layers: 1\n  layers: 2", "line 3: 'layers' is given twice"),
    "no date": ("out: 2001-99-99", "is not YAML"),
    "no number": ("batch_size: " + "9" * 5000, "is not YAML"),
    "no boolean": ("compile_model: !!bool x", "is not YAML"),
    "no key": ("? [a]\n: b", "is not YAML"),
    "misspelt": ("bach_size: 4", "bach_size: Extra inputs are not permitted; did you mean batch_s"),
    "misspelt in a group": ("method: {layer: 1}", "did you mean method.layers?"),
    "a megabyte": ("batch_size: " + "x" * 1_000_000, "batch_size: Input should be a valid integer"),
    "a megabyte as a key": ("x" * 100_000 + ": 1", "is not YAML"),
    "many": ("\n".join(f"k{number}: 1" for number in range(500)), "; and 497 more"),
    "control characters": ('device: "\\e[2J\\u202e"', "got"),
}


def run(capsys, *argv):
    exit_code = run_job(AttributeJob, lambda config: 0, verb="attribute", argv=argv)
    return exit_code, *capsys.readouterr()


def assert_one_line(result, reason):
    exit_code, stdout, stderr = result
    assert (exit_code, stdout) == (2, "")
    assert stderr.startswith("attribute: error: ")
    assert stderr.endswith("\n")
    line = stderr[:-1]
    assert line.isprintable()
    assert len(line) <= 300
    assert reason in line


@pytest.mark.parametrize(("content", "reason"), FILES.values(), ids=FILES)
def test_a_file_of_settings_that_is_none_is_one_line(
    capsys, tmp_path, monkeypatch, content, reason
):
    file = tmp_path / "run.yaml"
    file.write_text(content)
    # The path of a test's folder takes much of the line.
    monkeypatch.chdir(tmp_path)
    assert_one_line(run(capsys, "--config=run.yaml", *REQUIRED), reason)


def test_levels_that_are_meant_are_read(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("a: " + "[" * (MAX_LEVELS - 2) + "]" * (MAX_LEVELS - 2))
    assert read_settings(str(file))["a"] is not None
    file.write_text("a: &a {x: 1}\nb: {<<: *a, x: 2}\nc: *a")
    assert read_settings(str(file)) == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 1}}


FLAGS = {
    "misspelt": (("--bach-size=4",), "did you mean --batch-size?"),
    "a group": (("--views", "many"), "--views is a group of options; expected --views.clips"),
    "misspelt, in a group": (("--method.layer", "1"), "did you mean --method.layers?"),
    "unlike any": (("--colour=red",), "unrecognized arguments: --colour=red"),
    "a megabyte": ((f"--batch-size={'9x' * 500_000}",), "batch_size"),
    "a megabyte of a stray": (("x" * 1_000_000,), "unrecognized arguments"),
    "nested": ((f"--method={'[' * 5000}",), ""),
    "the root": (("--out=/",), "out: / is the root of a file system; expected"),
    "the root, written otherwise": (("--out=file:///./",), "is the root of a file system"),
    "no bucket": (("--out=s3://",), "is the root of a file system"),
}


@pytest.mark.parametrize(("flags", "reason"), FLAGS.values(), ids=FLAGS)
def test_flags_that_are_none_are_one_line(capsys, flags, reason):
    names = [given.partition("=")[0] for given in flags]
    others = [given for given in REQUIRED if given.partition("=")[0] not in names]
    assert_one_line(run(capsys, *others, *flags), reason)


def test_a_pipe_is_no_file_unless_the_shell_opened_it(capsys, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert_one_line(run(capsys, f"--config={pipe}", *REQUIRED), "expected a file")
    assert_one_line(run(capsys, "--config=/dev/zero", *REQUIRED), "expected a file")
    reader, writer = os.pipe()
    threading.Thread(target=lambda: (os.write(writer, b"batch_size: 4"), os.close(writer))).start()
    (config,) = parse(
        AttributeJob, verb="attribute", argv=(*REQUIRED, f"--config=/dev/fd/{reader}")
    ).runs()
    os.close(reader)
    assert config.batch_size == 4


def test_a_file_without_end_is_refused(capsys, tmp_path):
    file = tmp_path / "run.yaml"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    assert_one_line(run(capsys, f"--config={file}", *REQUIRED), "has more than 10000000 bytes")


def test_home_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "run.yaml"
    file.write_text("manifest: ~/clips.parquet\nmodels: {a: ~/a}\n")
    job = parse(AttributeJob, verb="attribute", argv=("--config=~/run.yaml", "--out=~/run~"))
    assert (job.manifest, job.out) == (f"{tmp_path}/clips.parquet", f"{tmp_path}/run~")
    assert dict(job.models) == {"a": f"{tmp_path}/a"}
    argv = ("--manifest=a~.parquet", "--out=x", "--models=a=~/a,b=org/b")
    job = parse(AttributeJob, verb="attribute", argv=argv)
    assert (job.manifest, dict(job.models)) == ("a~.parquet", {"a": f"{tmp_path}/a", "b": "org/b"})


def test_a_reader_that_leaves_ends_a_job_quietly(tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)

    def prints(config):
        for _ in range(100_000):
            print("a line")
        return 0

    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert run_job(AttributeJob, prints, verb="attribute", argv=REQUIRED) == NOBODY_READS


def test_a_storage_whose_connection_breaks_is_no_reader_that_leaves(capsys):
    def breaks(config):
        raise BrokenPipeError("of a socket")

    with pytest.raises(BrokenPipeError):
        run_job(AttributeJob, breaks, verb="attribute", argv=REQUIRED)


def test_files_that_are_damaged_at_random_are_read_or_refused_in_one_line(capsys, tmp_path):
    random = Random(seed_of_the_day())
    demo = (Path(__file__).parents[2] / "jobs" / "demo.yaml").read_bytes()
    whole = demo + b"method: {layers: [0, 1], heads: keep}\nviews: &s {clips: 2}\n"
    file = tmp_path / "run.yaml"
    outcomes = Counter()
    capsys.readouterr()
    for _ in range(N_MUTATED):
        file.write_bytes(random.choice([mutated_bytes, mutated_text])(whole, random))
        try:
            parse(AttributeJob, verb="attribute", argv=(*REQUIRED, f"--config={file}"))
            outcomes["read"] += 1
        except ConfigError:
            result = run(capsys, f"--config={file}", *REQUIRED)
            assert_one_line(result, "")
            outcomes["refused"] += 1
    assert outcomes["refused"] > N_MUTATED / 10, outcomes
