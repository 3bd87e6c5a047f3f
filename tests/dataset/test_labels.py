"""Labels of a manifest to classes of a model."""

import pyarrow.parquet as pq
import pytest

from pipeline.dataset.labels import resolve_labels
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import ManifestError
from pipeline.models.checkpoint import read_checkpoint
from tests.support.runs import (
    write_inputs,
)


def labels_of(tmp_path, *labels):
    """Resolve the labels of a manifest that has one clip of each, in turn."""
    inputs = write_inputs(tmp_path, 1)
    table = pq.read_table(inputs.manifest)
    rows = [table.to_pylist()[0] | {"label": label} for label in labels]
    pq.write_table(type(table).from_pylist(rows, table.schema), inputs.manifest)
    names = read_checkpoint(inputs.model).class_names
    return resolve_labels(read_manifest(inputs.manifest), class_names=names, model=inputs.model)


def test_a_label_is_a_class_name_in_any_case_or_an_index(tmp_path):
    labels = ("waving", "Sailing", "KNITTING", "4", None, "waving")
    assert labels_of(tmp_path, *labels) == {"waving": 3, "Sailing": 2, "KNITTING": 1, "4": 4}


@pytest.mark.parametrize("label", ["wave", "5", "-1", "", "1.0"])
def test_a_label_that_is_no_class_is_named_with_its_row(tmp_path, label):
    with pytest.raises(ManifestError, match=f"label {label!r} in row 1 .*5 \\(juggling, "):
        labels_of(tmp_path, "waving", label)
