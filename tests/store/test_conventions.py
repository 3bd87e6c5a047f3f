"""What the convention "attributions" declares, and its JSON schema."""

import json
from copy import deepcopy
from pathlib import Path

import jsonschema
import pytest
import zarr

from pipeline.store import conventions
from pipeline.store.conventions import CONVENTION, CONVENTION_KEYS, Attributions, json_schema
from pipeline.store.create import consolidate, create_store
from pipeline.store.schema import Measure, StoreLayout
from tests.store.foreign_stores import ATTRIBUTES, write_foreign
from tests.support.records import record_of

FILE = Path(conventions.__file__).with_name("attributions.schema.json")
LAYOUT = StoreLayout(
    n_rows=5, rows_per_shard=2, n_frames=4, n_times=2, height=3, width=3, n_ranks=2
)


def document(path):
    """A group's ``zarr.json``."""
    return json.loads((Path(path) / "zarr.json").read_text())


def errors_of(document):
    validator = jsonschema.Draft202012Validator(json.loads(FILE.read_text()))
    return [error.message for error in validator.iter_errors(document)]


def test_the_committed_schema_is_a_schema_and_that_of_the_code():
    schema = json.loads(FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema == json_schema()


def test_the_declaration_is_one_that_the_mechanism_knows():
    assert set(CONVENTION) <= set(CONVENTION_KEYS)
    assert CONVENTION["uuid"]


def test_a_new_store_of_this_product_keeps_the_schema(tmp_path):
    store = create_store(str(tmp_path / "run.zarr"), record_of(LAYOUT))
    assert errors_of(document(store.url)) == []
    consolidate(store)
    whole = document(store.url)
    assert whole["consolidated_metadata"]["metadata"]["spatial"]["data_type"] == "float16"
    assert errors_of(whole) == []
    assert whole["attributes"]["attributions"]["method"] == "staa-paper"


def test_a_store_of_measures_declares_nothing(tmp_path):
    layout = StoreLayout(
        **{**vars(LAYOUT), "measures": (Measure("drop", ("fill",), (3,), "what fell"),)}
    )
    store = create_store(str(tmp_path / "measures.zarr"), record_of(layout))
    assert "zarr_conventions" not in store.group.attrs


def test_a_store_of_another_tool_keeps_the_schema(tmp_path):
    path = write_foreign(tmp_path / "a.zarr")
    assert errors_of(document(path)) == []
    with pytest.warns(zarr.errors.ZarrUserWarning):
        zarr.consolidate_metadata(path)
    assert errors_of(document(path)) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d["attributes"].pop("zarr_conventions"),
        lambda d: d["attributes"].update(zarr_conventions=[{"name": "attributions"}]),
        lambda d: d["attributes"]["zarr_conventions"][0].update(colour="red"),
        lambda d: d["attributes"]["attributions"].update(version=2),
        lambda d: d["attributes"]["attributions"].pop("class_specific"),
        lambda d: d["attributes"]["attributions"].update(class_names=[]),
        lambda d: d.update(zarr_format=2),
        lambda d: d["consolidated_metadata"]["metadata"].pop("spatial"),
        lambda d: d["consolidated_metadata"]["metadata"]["temporal"].update(data_type="int32"),
        lambda d: d["consolidated_metadata"]["metadata"]["label"].update(dimension_names=["row"]),
    ],
)
def test_the_schema_refuses_what_breaks_the_convention(tmp_path, spoil):
    path = write_foreign(tmp_path / "a.zarr")
    with pytest.warns(zarr.errors.ZarrUserWarning):
        zarr.consolidate_metadata(path)
    spoilt = document(path)
    assert errors_of(spoilt) == []
    spoil(spoilt)
    assert errors_of(spoilt)


def test_other_tools_may_say_more():
    more = deepcopy(ATTRIBUTES["attributions"]) | {"captum:version": "0.9"}
    assert Attributions.model_validate(more).model_extra == {"captum:version": "0.9"}
