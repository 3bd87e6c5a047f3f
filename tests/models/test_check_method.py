"""A method that a model can't be explained by is refused before anything is made, in one line."""

import pytest

from pipeline.attribution.method import Method
from pipeline.errors import ConfigError
from pipeline.models.checkpoint import read_checkpoint
from tests.support.checkpoints import save_timesformer
from tests.support.families import FAMILIES


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    folders = {name: FAMILIES[name].save(folder / name) for name in ("videomae", "vivit", "vjepa2")}
    folders["divided"] = save_timesformer(folder / "divided")
    return {name: read_checkpoint(str(path)) for name, path in folders.items()}


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("vivit", {"name": "space"}, r"method\.name: .*vivit has no temporal attention"),
        ("vivit", {"name": "staa", "residual": True}, r"method\.residual: .*no temporal attention"),
        (
            "vivit",
            {"name": "evidence", "step_back": True},
            r"step_back: .*token of its own",
        ),
        ("videomae", {"name": "evidence", "heads": "keep"}, r"method\.heads: .*has no heads"),
        ("videomae", {"name": "evidence", "layers": 1}, r"layers: 1 is not .*one layer alone"),
        ("vjepa2", {"name": "evidence", "layers": (0, 1)}, r"layers: 1 is not .*one layer alone"),
        ("divided", {"name": "evidence", "layers": 7}, r"layers: 7 is not .*has 2 layers"),
        (
            "divided",
            {"name": "evidence", "target": "wave"},
            r"target: 'wave' is not a class of .*has 5 \(juggling, .*predicted, label, top2",
        ),
        ("divided", {"name": "evidence", "target": "5"}, r"method\.target: '5' is not a class"),
        ("divided", {"name": "libragrad", "target": "wave"}, r"target: 'wave' is not a class of"),
        ("divided", {"target": "x", "frame_importance": "gradient"}, r"method\.target: 'x' is not"),
    ],
)
def test_what_means_nothing_to_a_model_is_refused(checkpoints, name, method, message):
    with pytest.raises(ConfigError, match=message):
        checkpoints[name].check_method(Method.model_validate(method))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("videomae", {"name": "evidence", "step_back": True}),
        ("videomae", {"name": "evidence", "layers": "all"}),
        ("vjepa2", {"name": "evidence", "heads": "keep"}),
        ("divided", {"name": "space", "heads": "keep"}),
        ("divided", {"name": "residual"}),
        ("videomae", {"name": "libragrad", "target": "top2"}),
        ("vjepa2", {"name": "libragrad", "target": "label"}),
        ("divided", {"name": "evidence", "target": "Waving"}),
    ],
)
def test_what_means_something_is_taken(checkpoints, name, method):
    checkpoints[name].check_method(Method.model_validate(method))


def test_a_class_is_found_as_a_label_is(checkpoints):
    for target in ("sailing", "SAILING", "2"):
        assert checkpoints["divided"].class_of(Method(name="evidence", target=target)) == 2
    for target in ("predicted", "label", "top2"):
        assert checkpoints["divided"].class_of(Method(name="evidence", target=target)) is None
