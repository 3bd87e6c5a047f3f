"""A run's pace is noted beside its store, and read again by whoever asks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.pace import Pace, read_pace, write_pace
from pipeline.store.run_folder import pace_url

BUSY = {"decode": 0.95, "transfer": 0.0, "model": 0.12, "storage": 0.01}


@given(
    clips_per_s=st.floats(0, 1e6),
    busy=st.fixed_dictionaries(dict.fromkeys(BUSY, st.floats(0, 1))),
    cores_lacking=st.floats(0, 1e4),
)
def test_it_is_read_as_it_was_noted(tmp_path_factory, clips_per_s, busy, cores_lacking):
    run = str(tmp_path_factory.mktemp("pace"))
    pace = Pace(clips_per_s, busy, cores_lacking)
    write_pace(run, pace)
    assert read_pace(run) == pace
    assert "\n" not in str(pace)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"clips_per_s": "fast"}'])
def test_what_is_no_pace_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / "pace.json").write_text(text)
    assert pace_url(str(tmp_path)).endswith("pace.json")
    assert read_pace(str(tmp_path)) is None


def test_cores_are_named_only_where_decoding_bounds():
    assert "12 more cores of decoding" in str(Pace(3, BUSY, 12.3))
    assert "cores" not in str(Pace(3, BUSY | {"model": 1.0}, 12.3))
    assert "bounded by the storage" in str(Pace(3, BUSY | {"storage": 1.0}))
