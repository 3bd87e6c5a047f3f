"""Command lines as a user would give them: files, flags, and one line for whatever is wrong."""

import os
import signal
import time

import pytest
from pydantic import ValidationError

from jobs.cli import flags_carried_out, parse, run_job, writing
from pipeline.attribution.method import Method
from pipeline.errors import ConfigError, ManifestError, StorageError, StoreGoneError
from pipeline.run.config import AttributeConfig, AttributeJob, SamplingConfig

REQUIRED = ("--manifest=clips.parquet", "--model=small", "--out=run")


def parsed(*argv):
    """Configuration of the one run that a command line asks for."""
    (config,) = parse(AttributeJob, verb="attribute", argv=argv).runs()
    return config


def run(capsys, *argv, job=lambda config: 0, keeps=True):
    """Exit code, stdout and stderr of a job."""
    exit_code = run_job(AttributeJob, job, verb="attribute", keeps=keeps, argv=argv)
    return exit_code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("flag", "layers"),
    {"all": "all", "last": "last", "0,5": (0, 5), "-2,-1": (-2, -1), "3": (3,)}.items(),
)
def test_layers_are_a_word_or_numbers(flag, layers):
    assert parsed(*REQUIRED, f"--method.layers={flag}").method.layers == layers


@pytest.mark.parametrize("layers", [True, [True], [], "1,,2", "", None, 1.5, ["1.0"], "first"])
def test_other_layers_are_refused_in_words(layers):
    with pytest.raises(ValidationError, match=r"expected last, all, or whole numbers such as"):
        Method(name="staa-paper", layers=layers)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "manifest: clips.parquet\n"
        "model: small\n"
        "out: run\n"
        "batch_size: 4\n"
        "local_object_store: 2GB\n"
        "method:\n"
        "  name: staa\n"
        "  layers: 1\n"
        "  residual: true\n"
    )
    return str(path)


def test_flags_alone_are_enough():
    assert parsed(*REQUIRED) == AttributeConfig(manifest="clips.parquet", model="small", out="run")


def test_a_file_alone_is_enough(file):
    config = parsed("--config", file)
    assert config.method == Method(name="staa-paper", layers=(1,), residual=True)
    assert config.batch_size == 4
    assert config.local_object_store == 2_000_000_000
    assert config.precision == "float32"


NAMED = {
    "in a file": ("method: rollout", (), Method(name="rollout")),
    "by a flag": ("", ("--method=rollout",), Method(name="rollout")),
    "by a flag and an argument": (
        "",
        ("--method", "evidence", "--method.clamp", "sum"),
        Method(name="evidence", layers="all", clamp="sum"),
    ),
    "in a file, with a flag of the group": (
        "method: evidence",
        ("--method.clamp=sum",),
        Method(name="evidence", layers="all", clamp="sum"),
    ),
    "by a flag, over the file's": (
        "method: {name: staa, layers: 1}",
        ("--method=evidence",),
        Method(name="evidence", layers=1),
    ),
}


@pytest.mark.parametrize(("content", "flags", "method"), NAMED.values(), ids=NAMED)
def test_a_method_may_be_its_name_alone(tmp_path, content, flags, method):
    file = tmp_path / "run.yaml"
    file.write_text(f"precision: float32\n{content}\n")
    assert parsed(*REQUIRED, f"--config={file}", *flags).method == method


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("2min", 120), ("1.5 h", 5400), ("250ms", 0.25), ("45", 45), ("7.5", 7.5)],
)
def test_a_time_is_given_with_a_unit_or_in_seconds(text, seconds):
    config = parsed(*REQUIRED, f"--decode-timeout={text}")
    assert config.decode_timeout == seconds
    assert AttributeConfig.model_validate_json(config.model_dump_json()) == config


def test_a_flag_wins_over_the_file_and_the_files_other_keys_stay(file):
    config = parsed("--config", file, "--out=elsewhere", "--method.layers=-2", "--batch-size", "8")
    assert config.out == "elsewhere"
    assert config.model == "small"
    assert config.method == Method(name="staa-paper", layers=(-2,), residual=True)
    assert config.batch_size == 8


def test_where_the_file_is_named_on_the_command_line_makes_no_difference(file):
    flags = ("--method.layers", "0", "--no-method.residual")
    assert parsed(*flags, f"--config={file}") == parsed("--config", file, *flags)
    assert parsed(*flags, f"--config={file}").method == Method(
        name="staa-paper", layers=(0,), residual=False
    )


def test_flags_of_a_table_or_a_list_come_together():
    flags = ("--retry-failed=timeout", "--retry-failed=crashed")
    job = parse(AttributeJob, verb="attribute", argv=(*REQUIRED, *flags))
    assert job.retry_failed == ("timeout", "crashed")


def test_nested_keys_of_a_flag_alone_make_their_group():
    config = parsed(*REQUIRED, "--sampling.kind=strided", "--sampling.stride=4")
    assert config.sampling == SamplingConfig(kind="strided", stride=4)


def test_a_variable_of_the_environment_is_no_setting(monkeypatch):
    monkeypatch.setenv("BATCH_SIZE", "2")
    monkeypatch.setenv("OUT", "elsewhere")
    config = parsed(*REQUIRED)
    assert (config.batch_size, config.out) == (None, "run")


BAD_FLAGS = {
    "nothing": ((), "manifest: Field required; out: Field required"),
    "one missing": (REQUIRED[:2], "out: Field required"),
    "unknown": ((*REQUIRED, "--colour", "red"), "unrecognized arguments: --colour red"),
    "abbreviated": ((*REQUIRED, "--batch", "4"), "unrecognized arguments: --batch 4"),
    "twice": ((*REQUIRED, "--batch-size=4", "--batch-size=8"), "--batch-size is given twice"),
    "twice, in two ways": (
        (*REQUIRED, "--method.residual", "--no-method.residual"),
        "--method.residual is given twice",
    ),
    "twice, by its group": (
        (*REQUIRED, "--method", "rollout", "--method.name=evidence"),
        "--method.name is given twice",
    ),
    "no such method": ((*REQUIRED, "--method=stab"), "method.name: .*'libragrad' .got 'stab'"),
    "a method without its name": ((*REQUIRED, "--method"), "argument --method.name: expected one"),
    "a file twice": ((*REQUIRED, "--config=a", "--config", "b"), "--config is given twice"),
    "stray": ((*REQUIRED, "run.yaml"), "unrecognized arguments: run.yaml"),
    "without its value": ((*REQUIRED, "--batch-size"), "argument --batch-size: expected one"),
    "config without a file": ((*REQUIRED, "--config"), "argument --config: expected one"),
    "wrong type": ((*REQUIRED, "--batch-size=many"), "batch_size: .*integer.*got 'many'"),
    "wrong type, nested": (
        (*REQUIRED, "--method.layers=first"),
        "method.layers: .*'first'.*: expected last, all",
    ),
    "too small": ((*REQUIRED, "--rows-per-shard=0"), "rows_per_shard: .*got '0'"),
    "no such choice": ((*REQUIRED, "--device=tpu"), "device: .*'auto', 'cpu'.*got 'tpu'"),
    "broken JSON": ((*REQUIRED, '--method={"layers": 1'), '"method"'),
    "two that don't fit": (
        (*REQUIRED, "--batch-size=7", "--rows-per-shard=256"),
        "rows_per_shard=256.*batch_size=7",
    ),
    "a rate without its stride": ((*REQUIRED, "--sampling.target-fps=25"), "a rate goes with"),
    "an empty name": ((*REQUIRED[:2], "--out="), "out: is empty"),
    "an absurd size": ((*REQUIRED, "--rows-per-shard=99999999999"), "rows_per_shard: .*65536"),
    "a time of no unit": (
        (*REQUIRED, "--decode-timeout=30x"),
        "decode_timeout: '30x' is not a time",
    ),
    "no time at all": ((*REQUIRED, "--decode-timeout=0s"), "decode_timeout: .*greater than 0"),
    "too little memory": ((*REQUIRED, "--decode-memory=1MB"), "decode_memory: .*500000000"),
    "too small a store": ((*REQUIRED, "--local-object-store=10MB"), "local_object_store: .*8000"),
    "credentials": ((*REQUIRED[:2], "--out=s3://key:secret@bucket/run"), "out: the URL holds cred"),
    "signature": ((*REQUIRED[:2], "--out=https://h/run?sig=abc"), "out: the URL holds cred"),
    "two of a group": ((*REQUIRED, "--sampling.kind=strided"), "sampling: stride=None with kind="),
}


def assert_refused(result, reason):
    exit_code, stdout, stderr = result
    assert exit_code == 2
    assert stdout == ""
    assert stderr.count("\n") == 1
    prefix, message = stderr[:18], stderr[18:]
    assert prefix == "attribute: error: "
    with pytest.raises(ConfigError, match=reason):
        raise ConfigError(message)


@pytest.mark.parametrize(("argv", "reason"), BAD_FLAGS.values(), ids=BAD_FLAGS)
def test_a_bad_command_line_is_one_line_and_exit_code_2(capsys, argv, reason):
    assert_refused(run(capsys, *argv), reason)


BAD_FILES = {
    "unknown key": (b"colour: red", "colour: Extra inputs are not permitted"),
    "unknown nested key": (b"method: {colour: red}", r"method\.colour: Extra"),
    "key that is no name": (b"1: 2", "1: Keys should be strings"),
    "wrong type": (b"batch_size: [4]", r"batch_size: .*got \[4\]"),
    "value for a group": (b"method: 3", "method: .*got 3"),
    "name for a group that has none": (b"views: 3", "views: .*got 3"),
    "missing keys": (b"model: small", "manifest: Field required; out: Field required"),
    "two that don't fit": (b"batch_size: 7\nrows_per_shard: 256", "batch_size=7"),
    "list": (b"- manifest", "run.yaml has list at its top"),
    "empty": (b"", "run.yaml has NoneType at its top"),
    "not YAML": (b"manifest: [clips", "run.yaml is not YAML: .*line 1"),
    "tabs": (b"method:\n\tlayers: 1", "run.yaml is not YAML: .*line 2"),
    "calls Python": (b"out: !!python/object/apply:os.getcwd []", "run.yaml is not YAML"),
    "not text": (b"\xff\xfe\x00", "run.yaml is not YAML"),
    "overwrite": (b"overwrite: true", "run.yaml has overwrite, .*: give it as a flag, --overwrite"),
    "retry": (b"retry_failed: [timeout]", "retry_failed, which is for one call: .*--retry-failed"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_line_and_exit_code_2(capsys, tmp_path, content, reason):
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    flags = () if reason.startswith("manifest: Field") else REQUIRED
    assert_refused(run(capsys, f"--config={file}", *flags), reason)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent.yaml", "absent.yaml: No such file"),
        ("", "Is a directory"),
    ],
)
def test_a_file_that_can_not_be_read_is_named(capsys, tmp_path, name, reason):
    assert_refused(run(capsys, f"--config={tmp_path / name}"), f"config: can't read .*{reason}")


def test_a_protocol_that_is_not_known_is_named(capsys):
    result = run(capsys, "--config=gopher://host/run.yaml")
    assert_refused(result, "config: can't read gopher://.*gopher")


def test_help_lists_the_flags_and_is_no_error(capsys):
    with pytest.raises(SystemExit) as exited:
        run(capsys, "--help")
    assert exited.value.code == 0
    stdout, stderr = capsys.readouterr()
    assert stderr == ""
    for text in (
        "python -m jobs.attribute",
        "--rows-per-shard",
        "--method.layers",
        "--config FILE",
    ):
        assert text in stdout


def fail(config):
    raise ManifestError(f"manifest: {config.manifest} is\nno manifest")


def test_an_error_of_the_input_is_one_line_and_exit_code_2(capsys):
    result = run(capsys, *REQUIRED, job=fail)
    assert result == (2, "", "attribute: error: manifest: clips.parquet is no manifest\n")


def test_a_fault_of_the_program_is_not_taken_for_one_of_the_input(capsys):
    with pytest.raises(ZeroDivisionError):
        run(capsys, *REQUIRED, job=lambda config: 1 // 0)


@pytest.mark.parametrize("exit_code", [0, 1])
def test_the_exit_code_is_the_jobs_own(capsys, exit_code):
    assert run(capsys, *REQUIRED, job=lambda config: exit_code) == (exit_code, "", "")


def test_a_target_that_can_not_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    target = file / "below"
    reason = f"out: can't write {target}: Not a directory"
    with pytest.raises(ConfigError, match=reason), writing("out", str(target)):
        target.write_text("")


def test_a_terminated_job_says_so_in_one_line_and_stops_what_it_started(capsys):
    stopped = []

    def terminated(config):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            # The handler runs between two instructions.
            time.sleep(60)
        finally:
            stopped.append(config.out)

    before = signal.getsignal(signal.SIGTERM)
    exit_code, _, stderr = run(capsys, *REQUIRED, job=terminated)
    assert exit_code == 143
    assert stderr == "attribute: terminated; what was finished is kept\n"
    assert stopped == ["run"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupted_job_says_so_in_one_line(capsys):
    exit_code, _, stderr = run(capsys, *REQUIRED, job=interrupted)
    assert exit_code == 130
    assert stderr == "attribute: interrupted; what was finished is kept\n"


def away(config):
    raise StorageError("s3://bucket/x: stays away")


def away_midway(config):
    with flags_carried_out(config):
        away(config)


@pytest.mark.parametrize(
    ("job", "flags", "command"),
    [
        (away, (), "the same command"),
        (away_midway, (), "the same command"),
        (away_midway, ("--append",), "the same command"),
        # Nothing is deleted or reset yet, or nothing is computed since.
        (away, ("--overwrite",), "the same command"),
        (away_midway, ("--overwrite",), "the same command without --overwrite"),
        (away_midway, ("--retry-failed=all",), "the same command without --retry-failed"),
    ],
)
def test_a_storage_that_stays_away_ends_with_the_command_that_goes_on(capsys, job, flags, command):
    exit_code, stdout, stderr = run(capsys, *REQUIRED, *flags, job=job)
    assert (exit_code, stdout) == (1, "")
    said = f"s3://bucket/x: stays away; what was finished is kept, and {command} goes on"
    assert stderr == f"attribute: error: {said}\n"


def interrupted(config):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (interrupted, "interrupted"),
        (away, "error: s3://bucket/x: stays away; the same command may succeed later"),
    ],
)
def test_a_job_that_keeps_nothing_does_not_say_that_it_does(capsys, job, said):
    assert run(capsys, *REQUIRED, job=job, keeps=False)[2] == f"attribute: {said}\n"


def test_of_a_store_that_was_deleted_nothing_is_said_to_be_kept(capsys):
    def gone(config):
        with flags_carried_out(config):
            raise StoreGoneError("run/attributions.zarr was deleted while the run went on")

    said = "nothing of the run is left, and the same command without --overwrite starts it over\n"
    assert run(capsys, *REQUIRED, "--overwrite", job=gone)[2].endswith(said)
