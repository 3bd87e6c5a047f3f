"""The method as it is configured: layers, heads, and what excludes what."""

import pytest
from pydantic import ValidationError

from pipeline.attribution.method import Method
from pipeline.errors import ConfigError


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
