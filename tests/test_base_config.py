"""The base of every configuration: immutable, no unknown key, times with units, no credentials."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from pipeline.base_config import FrozenConfig, Seconds


class Example(FrozenConfig):
    wait: Seconds = 1.0
    place: str = "somewhere"
    table: dict[str, str] = Field(default={})


def test_it_can_not_be_changed_and_has_no_other_key():
    with pytest.raises(ValidationError, match="frozen"):
        Example().wait = 2
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Example(colour="red")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("2min", 120), ("1.5 h", 5400), ("250ms", 0.25), (" 45 ", 45), (7.5, 7.5)],
)
def test_a_time_is_given_with_a_unit_or_in_seconds(text, seconds):
    assert Example(wait=text).wait == seconds


@pytest.mark.parametrize("text", ["30x", "s", "", "-1s", "1 s s", "1,5s", "1e3s", "inf"])
def test_any_other_text_is_no_time(text):
    with pytest.raises(
        ValidationError, match="is not a time; expected a number of ms, s, min or h"
    ):
        Example(wait=text)


@given(st.floats(0, 1e6))
def test_a_time_comes_back_from_json(seconds):
    config = Example(wait=seconds)
    assert Example.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("given_values", "message"),
    [
        ({"place": ""}, "place: is empty"),
        ({"place": "s3://key:secret@bucket"}, "place: the URL holds credentials"),
        ({"table": {"a": "https://h/x?sig=secret"}}, r"table\.a: the URL holds credentials"),
        ({"table": {"a": ""}}, r"table\.a: is empty"),
    ],
)
def test_what_must_not_be_recorded_is_refused_by_its_key(given_values, message):
    with pytest.raises(ValidationError, match=message):
        Example(**given_values)
