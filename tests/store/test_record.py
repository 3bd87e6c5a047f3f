"""What a store says of its making, and which runs may go on with it."""

import pytest

from pipeline.errors import RunMismatchError
from pipeline.store.create import open_store
from pipeline.store.record import check_identity
from tests.support.stores import IDENTITY


def test_the_same_run_may_go_on(group, url):
    check_identity(open_store(url), IDENTITY)
    check_identity(open_store(url), {**IDENTITY, "method": {"layer": -1, "size": [224, 224]}})


def test_another_run_is_told_every_difference_with_both_values(group, url):
    other = {
        "manifest": "ffff",
        "model": {"name": "timesformer", "weights": "0000"},
        "method": {"layer": -1, "size": (224, 112), "residual": True},
    }
    with pytest.raises(RunMismatchError) as caught:
        check_identity(open_store(url), other)
    message = str(caught.value)
    for difference in (
        "manifest is '3f2a' there and 'ffff' here",
        "model.weights is '9c1e' there and '0000' here",
        "method.size is [224, 224] there and [224, 112] here",
        "method.residual is None there and True here",
    ):
        assert difference in message
    assert url in message
    assert "layer" not in message
    assert "model.name" not in message


@pytest.mark.parametrize("key", ["manifest", "model", "method"])
def test_a_part_that_is_gone_is_a_difference(group, url, key):
    shorter = {name: value for name, value in IDENTITY.items() if name != key}
    with pytest.raises(RunMismatchError, match=rf"{key}.* and None here"):
        check_identity(open_store(url), shorter)
