"""What a method may be told, and what of it is recorded."""

import pytest
from pydantic import ValidationError

from pipeline.attribution.method import Method
from pipeline.errors import ConfigError


def test_names_that_stand_for_another_are_the_same_method():
    assert Method(name="staa") == Method(name="staa-paper")
    assert Method(name="residual") == Method(name="staa-paper", residual=True)
    assert Method(name="residual", layers="all").layers == "all"


def test_a_method_as_it_was_recorded_at_first_is_accepted_for_ever():
    recorded = {"name": "staa", "layers": [1], "heads": "mean", "residual": False}
    assert Method.as_recorded(recorded) == recorded
    assert Method.model_validate(recorded) == Method(name="staa-paper", layers=(1,))
    rollout = {"name": "rollout", "layers": "last", "heads": "mean", "residual": False}
    assert Method.model_validate(rollout) == Method(name="rollout")
    assert Method.model_validate(Method(name="evidence").model_dump()) == Method(name="evidence")


def test_a_method_from_when_defaults_were_others_keeps_its_meaning():
    assert Method.as_recorded({"layers": [1]})["name"] == "staa-paper"
    before_there_was_a_clamp = {"name": "evidence", "layers": [0, 1], "heads": "mean"}
    method = Method.model_validate(Method.as_recorded(before_there_was_a_clamp))
    assert (method.clamp, method.step_back) == ("parts", False)
    spelled_out = {"name": "evidence", "clamp": "sum", "step_back": True}
    method = Method.model_validate(Method.as_recorded(spelled_out))
    assert (method.clamp, method.step_back) == ("sum", True)
    of_staa = {"name": "staa-paper", "layers": [2], "clamp": "parts", "step_back": False}
    assert Method.model_validate(Method.as_recorded(of_staa)) == Method(name="staa", layers=(2,))


@pytest.mark.parametrize(
    "method",
    [
        *(Method(), Method(name="staa"), Method(name="rollout")),
        Method(name="libragrad", target="label"),
    ],
)
def test_a_method_as_it_is_recorded_now_is_read_as_it_is(method):
    method = method.resolved(3, pools_mean=True)
    assert Method.model_validate(Method.as_recorded(method.model_dump())) == method


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ({"name": "rollout", "layers": "all"}, "layers"),
        ({"name": "rollout", "heads": "keep"}, "heads"),
        ({"name": "rollout-contribution", "layers": 0}, "layers"),
        ({"name": "contribution", "heads": "keep"}, "heads"),
        ({"name": "space", "residual": True}, "residual"),
        ({"name": "evidence", "residual": True}, "residual"),
        ({"residual": True}, "residual"),
        ({"name": "staa", "target": "label"}, "target"),
        ({"name": "staa", "derivative": "plain"}, "derivative"),
        ({"name": "staa", "store_layers": True}, "store_layers"),
        ({"name": "rollout", "change_weighted": True}, "change_weighted"),
        ({"name": "staa", "clamp": "parts"}, "clamp"),
        ({"name": "space", "step_back": True}, "step_back"),
        ({"name": "libragrad", "layers": "all"}, "layers"),
        ({"name": "libragrad", "heads": "keep"}, "heads"),
        ({"name": "libragrad", "clamp": "parts"}, "clamp"),
        ({"name": "libragrad", "derivative": "plain"}, "derivative"),
        ({"name": "libragrad", "change_weighted": True}, "change_weighted"),
    ],
)
def test_what_means_nothing_to_a_method_is_refused_with_the_reason(method, key):
    with pytest.raises(ValidationError, match=rf"{key}=.* with name=.*, so {key} can't be chosen"):
        Method.model_validate(method)


def test_evidence_is_of_all_layers_if_nothing_is_said():
    assert Method(name="evidence").layers == "all"
    assert Method(name="evidence", layers="last").layers == "last"
    assert Method(name="staa").layers == "last"
    assert Method().layers == "all"
    assert Method.model_validate({"layers": "last"}).layers == "last"


def test_a_name_that_stands_for_options_is_not_contradicted_in_silence():
    with pytest.raises(ValidationError, match="residual=False with name='residual', which means"):
        Method(name="residual", residual=False)
    assert Method(name="residual", residual=True).residual


@pytest.mark.parametrize("name", [3, None, ["evidence"], "grad-cam"])
def test_another_name_is_refused_with_those_there_are(name):
    with pytest.raises(ValidationError, match="'evidence' or 'libragrad'"):
        Method.model_validate({"name": name})


def test_frame_importance_is_of_a_class_whatever_it_stands_beside():
    method = Method(name="staa-paper", frame_importance="gradient", target="label")
    assert method.is_of_class
    assert not method.explains_class
    assert method.optional_arrays == ("target", "frame_importance")


@pytest.mark.parametrize(
    ("method", "arrays", "n_layers"),
    [
        ({}, ("target", "signed"), 1),
        ({"name": "staa"}, (), 3),
        ({"name": "rollout"}, (), 1),
        ({"name": "evidence"}, ("target", "signed"), 1),
        ({"name": "evidence", "store_layers": True}, ("target", "signed"), 3),
        ({"name": "evidence", "heads": "keep"}, ("target", "signed"), 3),
        ({"name": "libragrad"}, ("target", "signed"), 1),
        (
            {"name": "libragrad", "target": "top2"},
            ("target", "signed", "runner_up_spatial", "runner_up_temporal"),
            1,
        ),
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
    assert Method(name="staa-paper", layers=(-1,)).resolved(3, pools_mean=False).layers == (2,)
    assert Method(name="evidence", layers="all").resolved(2, pools_mean=False).layers == (0, 1)
    for name in ("rollout", "rollout-contribution", "libragrad"):
        assert Method(name=name).resolved(3, pools_mean=False) == Method(name=name)


@pytest.mark.parametrize("pools_mean", [False, True])
def test_evidence_is_followed_back_where_final_tokens_are_read(pools_mean):
    assert Method().resolved(2, pools_mean=pools_mean).step_back is pools_mean
    told = Method(step_back=False)
    assert told.resolved(2, pools_mean=pools_mean).step_back is False
    staa = Method(name="staa").resolved(2, pools_mean=pools_mean)
    assert staa.step_back is None


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
    assert Method(name="staa-paper", layers=given_layers).layers == layers


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
    assert Method(name="staa-paper", layers=layers).chosen_layers(n_layers) == chosen


@pytest.mark.parametrize("layer", [12, -13])
def test_a_layer_that_the_model_lacks_is_named(layer):
    with pytest.raises(ConfigError, match=rf"method\.layers: {layer} .* has 12 layers"):
        Method(name="staa-paper", layers=(layer,)).chosen_layers(12)
    with pytest.raises(ConfigError, match="is read in one layer alone"):
        Method(name="staa-paper", layers=(layer,)).chosen_layers(1)


def test_libra_grad_goes_through_every_layer_and_keeps_its_class():
    method = Method(name="libragrad", target="waving", frame_importance="gradient")
    assert method.explains_class
    assert method.chosen_layers(4) == (0, 1, 2, 3)
    assert method.as_flags() == [
        "--method libragrad",
        "--method.target waving",
        "--method.frame-importance gradient",
    ]
    assert method.of_attribution() == Method(name="libragrad", target="waving")


def test_rollout_reads_every_layer_and_leaves_nothing_to_choose():
    assert Method(name="rollout").chosen_layers(4) == (0, 1, 2, 3)
    for option in ({"layers": "all"}, {"heads": "keep"}, {"residual": True}):
        with pytest.raises(ValidationError, match=f"{next(iter(option))}=.* with name='rollout'"):
            Method(name="rollout", **option)
