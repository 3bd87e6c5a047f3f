import pytest

from jobs.cli import parse
from pipeline.errors import ConfigError
from pipeline.stream.config import LiveConfig


def parsed(*argv):
    return parse(LiveConfig, verb="live", argv=argv)


def test_sources_are_positions_and_times_have_units():
    config = parsed("a=x.mp4", "rtsp://cam/1", "--model", "m", "--hop", "500ms", "--window=3s")
    assert config.sources == ("a=x.mp4", "rtsp://cam/1")
    assert (config.hop, config.window) == (0.5, 3.0)


def test_a_url_with_a_comma_is_quoted():
    assert parsed('"http://cam/a,b?x=1,2"', "--model=m").sources == ("http://cam/a,b?x=1,2",)
    assert parsed("a.mp4,b.mp4", "--model=m").sources == ("a.mp4", "b.mp4")


def test_a_name_that_a_command_line_would_part_is_told_how_to_give():
    for name in ("[hall] cam.mp4", '{"hall"}.mp4', 'ha"ll.mp4'):
        with pytest.raises(ConfigError, match=r"^sources: can't be parted: expected \./\[name\]"):
            parsed(name, "--model=m")
    assert parsed("./[hall] cam.mp4", "--model=m").sources == ("./[hall] cam.mp4",)


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--model=m"], "SOURCES"),
        (["a", "--model=m", "--hop=0s"], "hop"),
        # Of each frame of 30 a second, 33,000 windows would be cut.
        (["a", "--model=m", "--hop=0.001ms"], "hop.*0.01"),
        (["a", "--model=m", "--rows-per-shard=6", "--batch-size=4"], "rows_per_shard=6 is not"),
        (["a", "--model=m", "--record-clips"], "record_clips: goes with out"),
        (["a", "--model=m", "--keep.age=1h"], "keep: goes with out"),
        (["a", "--model=m", "--drift-false-alarm=0.1"], "drift_false_alarm: goes with drift_ag"),
        (["a", "--model=m", "--drift-against=b", "--drift-false-alarm=1"], "drift_false_alarm"),
        (["a", "--model=m", "--out=memory://x"], "out: memory://x"),
        (["a", "a", "--model=m"], "sources: one is given twice"),
        (["a", "--model=m", "--page.port=70000"], "port"),
        (["a", "--model=m", "--method=libragrad", "--compile-model"], "compile_model=True with"),
    ],
)
def test_what_does_not_fit_is_told_by_its_key(argv, reason):
    with pytest.raises(ConfigError, match=reason):
        parsed(*argv)


def test_credentials_of_sources_are_in_no_run_that_is_recorded():
    config = parsed("rtsp://eve:hunter2@cam", "--model", "m", "--batch-size=4")
    run = config.as_run(manifest="m.parquet", out="out")
    assert "hunter2" not in run.model_dump_json()
    assert (run.batch_size, run.rows_per_shard) == (4, 64)
