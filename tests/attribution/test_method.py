"""What a method may be told, and what of it is recorded."""

import pytest
from pydantic import ValidationError

from pipeline.attribution.method import Method


def test_names_that_stand_for_another_are_the_same_method():
    assert Method(name="staa") == Method(name="staa-paper") == Method()
    assert Method(name="residual") == Method(residual=True)
    assert Method(name="residual", layers="all").layers == "all"


def test_a_method_as_it_was_recorded_at_first_is_accepted_for_ever():
    recorded = {"name": "staa", "layers": [1], "heads": "mean", "residual": False}
    assert Method.model_validate(recorded) == Method(layers=(1,))
    rollout = {"name": "rollout", "layers": "last", "heads": "mean", "residual": False}
    assert Method.model_validate(rollout) == Method(name="rollout")
    assert Method.model_validate(Method(name="evidence").model_dump()) == Method(name="evidence")


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ({"name": "rollout", "layers": "all"}, "layers"),
        ({"name": "rollout", "heads": "keep"}, "heads"),
        ({"name": "rollout-contribution", "layers": 0}, "layers"),
        ({"name": "contribution", "heads": "keep"}, "heads"),
        ({"name": "space", "residual": True}, "residual"),
        ({"name": "evidence", "residual": True}, "residual"),
        ({"target": "label"}, "target"),
        ({"derivative": "plain"}, "derivative"),
        ({"store_layers": True}, "store_layers"),
        ({"name": "rollout", "change_weighted": True}, "change_weighted"),
    ],
)
def test_what_means_nothing_to_a_method_is_refused_with_the_reason(method, key):
    with pytest.raises(ValidationError, match=rf"{key}=.* with name=.*, so {key} is"):
        Method.model_validate(method)


def test_frame_importance_is_of_a_class_whatever_it_stands_beside():
    method = Method(frame_importance="gradient", target="label")
    assert method.is_of_class
    assert method.optional_arrays == ("target", "frame_importance")


@pytest.mark.parametrize(
    ("method", "arrays", "n_layers"),
    [
        ({}, (), 3),
        ({"name": "rollout"}, (), 1),
        ({"name": "evidence"}, ("target", "signed"), 1),
        ({"name": "evidence", "store_layers": True}, ("target", "signed"), 3),
        ({"name": "evidence", "heads": "keep"}, ("target", "signed"), 3),
        (
            {"name": "evidence", "target": "top2"},
            ("target", "signed", "runner_up_spatial", "runner_up_temporal"),
            1,
        ),
    ],
)
def test_arrays_and_layers_that_are_stored(method, arrays, n_layers):
    method = Method.model_validate(method)
    assert method.optional_arrays == arrays
    assert method.n_stored_layers(3) == n_layers


def test_layers_are_resolved_where_they_can_be_chosen():
    assert Method(layers=(-1,)).resolved(3).layers == (2,)
    assert Method(name="evidence", layers="all").resolved(2).layers == (0, 1)
    for name in ("rollout", "rollout-contribution"):
        assert Method(name=name).resolved(3) == Method(name=name)
