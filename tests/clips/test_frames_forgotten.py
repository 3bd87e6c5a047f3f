"""The note of what was erased: what it finds, what it adds to, and what it doesn't tell."""

import numpy as np
import pytest

from pipeline.clips.frames_forgotten import FORGOTTEN_NAME, Forgotten
from pipeline.errors import StorageError

DIGESTS = np.arange(4 * 16, dtype=np.uint8).reshape(4, 16)
PART = "frames-a-b.zarr"


def which(forgotten, part=PART):
    return np.flatnonzero(forgotten.which(part, np.arange(10, 14), DIGESTS)).tolist()


def test_rows_are_found_by_clip_and_by_number_in_their_part_alone():
    forgotten = Forgotten.of([DIGESTS[2].tobytes()], [(PART, 10), ("another.zarr", 11)])
    assert which(forgotten) == [0, 2]
    assert which(forgotten, "another.zarr") == [1, 2]
    assert which(Forgotten()) == []
    assert forgotten.rows_of(PART).tolist() == [10]


def test_a_note_is_added_to_and_read_again(tmp_path):
    url = str(tmp_path)
    assert Forgotten.read(url) == Forgotten.read(f"{url}/absent") == Forgotten()
    first = Forgotten.of([DIGESTS[0].tobytes()], [(PART, 3)])
    second = Forgotten.of([DIGESTS[1].tobytes()], [(PART, 1), ("another.zarr", 3)])
    assert first.noted(url) == first
    together = second.noted(f"{url}/")
    assert which(together) == [0, 1]
    assert together.rows == first.rows | second.rows
    assert Forgotten.read(url) == together
    before = (tmp_path / FORGOTTEN_NAME).stat().st_mtime_ns
    assert first.noted(url) == together
    assert (tmp_path / FORGOTTEN_NAME).stat().st_mtime_ns == before


def test_digests_of_clips_as_they_are_stored_are_not_in_it(tmp_path):
    Forgotten.of([DIGESTS[1].tobytes()], []).noted(str(tmp_path))
    note = (tmp_path / FORGOTTEN_NAME).read_bytes()
    assert DIGESTS[1].tobytes() not in note
    assert DIGESTS[1].tobytes().hex().encode() not in note


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 2, "clips": [], "rows": {}}'])
def test_a_note_that_can_not_be_read_is_not_taken_for_none(tmp_path, text):
    (tmp_path / FORGOTTEN_NAME).write_text(text)
    with pytest.raises(StorageError, match="must stay out of the cache, and can't be read"):
        Forgotten.read(str(tmp_path))
