"""What a method may be told, and what of it is recorded."""

import pytest
from pydantic import ValidationError

from pipeline.attribution.method import Method
from pipeline.errors import ConfigError


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
        ({"clamp": "sum"}, "clamp"),
    ],
)
def test_what_means_nothing_to_a_method_is_refused_with_the_reason(method, key):
    with pytest.raises(ValidationError, match=rf"{key}=.* with name=.*, so {key} is"):
        Method.model_validate(method)


def test_evidence_is_of_all_layers_if_nothing_is_said():
    assert Method(name="evidence").layers == "all"
    assert Method(name="evidence", layers="last").layers == "last"
    assert Method().layers == "last"


@pytest.mark.parametrize("name", [3, None, ["evidence"], "grad-cam"])
def test_another_name_is_refused_with_those_there_are(name):
    with pytest.raises(ValidationError, match="'rollout-contribution' or 'evidence'"):
        Method.model_validate({"name": name})


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


@pytest.mark.parametrize(
    ("given_layers", "layers"),
    [
        ("last", "last"),
        ("all", "all"),
        (3, (3,)),
        ("0,5", (0, 5)),
        (["0", " 5 "], (0, 5)),
        ((-2, -1), (-2, -1)),
        (["all"], "all"),
    ],
)
def test_layers_are_a_word_or_numbers(given_layers, layers):
    assert Method(layers=given_layers).layers == layers


@pytest.mark.parametrize(
    ("layers", "n_layers", "chosen"),
    [
        ("last", 12, (11,)),
        ("all", 3, (0, 1, 2)),
        ((-1, 0), 12, (0, 11)),
        # The same layer, named twice, is read once; the order is the model's.
        ((11, -1, 2), 12, (2, 11)),
    ],
)
def test_layers_are_counted_from_either_end(layers, n_layers, chosen):
    assert Method(layers=layers).chosen_layers(n_layers) == chosen


@pytest.mark.parametrize("layer", [12, -13])
def test_a_layer_that_the_model_lacks_is_named(layer):
    with pytest.raises(ConfigError, match=rf"method\.layers: {layer} .* has 12 layers"):
        Method(layers=(layer,)).chosen_layers(12)
    with pytest.raises(ConfigError, match="is read in one layer alone"):
        Method(layers=(layer,)).chosen_layers(1)


def test_rollout_reads_every_layer_and_leaves_nothing_to_choose():
    assert Method(name="rollout").chosen_layers(4) == (0, 1, 2, 3)
    for option in ({"layers": "all"}, {"heads": "keep"}, {"residual": True}):
        with pytest.raises(ValidationError, match=f"{next(iter(option))}=.* with name='rollout'"):
            Method(name="rollout", **option)
