"""What a store says of its making, and which runs may go on with it."""

import re

import pytest

from pipeline.errors import RunMismatchError
from pipeline.store.create import open_store
from pipeline.store.record import check_identity, run_id, store_layout
from tests.support.stores import IDENTITY, LAYOUT


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


def test_the_name_of_a_run_is_its_folder_and_a_digest_of_what_it_is():
    name = run_id("s3://bucket/runs/demo/", IDENTITY)
    assert re.fullmatch(r"demo-[0-9a-f]{8}", name)
    # As JSON a tuple and a list, and keys in another order, are the same.
    same = dict(reversed(IDENTITY.items())) | {"method": {"size": [224, 224], "layer": -1}}
    assert run_id("elsewhere/demo", same) == name
    assert run_id("s3://bucket/runs/demo", IDENTITY | {"manifest": "0"}) != name
    assert run_id("/", IDENTITY).startswith("run-")


def test_sizes_come_back_as_they_were_written(group):
    assert store_layout(group) == LAYOUT


def test_a_longer_manifest_alone_is_told_how_to_be_taken_in(group):
    with pytest.raises(RunMismatchError, match="taken in with --append"):
        check_identity(group, IDENTITY | {"manifest": "ffff"})
    with pytest.raises(RunMismatchError) as caught:
        check_identity(group, IDENTITY | {"method": {"layer": 0, "size": (224, 224)}})
    assert "--append" not in str(caught.value)
