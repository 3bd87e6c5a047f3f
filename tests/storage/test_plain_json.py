"""Values of any make become those of JSON, however deep they lie."""

import json

import numpy as np

from pipeline.storage.plain_json import plain


def test_arrays_scalars_and_nests_become_what_json_has():
    value = {
        1: np.array([[0.25, np.nan], [np.inf, -1.0]]),
        "scalar": (np.float32(0.5), np.int64(3), np.bool_(True), np.array(2.5)),
        "else": [None, True, 7, "text"],
    }
    assert json.loads(json.dumps(plain(value, float), allow_nan=False)) == {
        "1": [[0.25, None], [None, -1.0]],
        "scalar": [0.5, 3, True, 2.5],
        "else": [None, True, 7, "text"],
    }


def test_numbers_are_rounded_as_asked_and_what_is_unknown_stays():
    unknown = object()
    assert plain([0.123456, 3, unknown], lambda number: round(number, 2)) == [0.12, 3, unknown]
