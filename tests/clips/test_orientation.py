"""Where a frame's pixels lie once it is shown, by the standard's formula."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.clips.orientation import _display_matrix
from pipeline.clips.recording import open_recording
from tests.support.clips import turn_mp4
from tests.support.recordings import write_kind


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recordings")


MATRICES = [
    *((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)),
    *((-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)),
]
"""Quarter turns, and the same of a mirrored picture."""


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_pictures_are_turned_and_mirrored_as_the_matrix_says(folder, tmp_path, matrix):
    source = write_kind(folder, "no_b_frames.mov")
    plain = next(open_recording(source.read_bytes(), "pyav").frames_at([7]))
    turned = turn_mp4(Path(shutil.copy(source, tmp_path / "a.mov")), matrix)
    shown = next(open_recording(turned.read_bytes(), "pyav").frames_at([7]))
    # ISO/IEC 14496-12, 6.2.2: (x, y) lies at (a x + c y, b x + d y).
    a, b, c, d = matrix
    y, x = np.mgrid[: plain.shape[0], : plain.shape[1]]
    across, down = a * x + c * y, b * x + d * y
    expected = np.zeros((int(np.ptp(down)) + 1, int(np.ptp(across)) + 1, 3), np.uint8)
    expected[down - down.min(), across - across.min()] = plain
    assert np.array_equal(shown, expected)


def other_data(frame):
    """Raise what PyAV raises where beside the matrix are data of a kind that it has no name for."""
    raise ValueError("999 is not a valid Type")


@pytest.mark.parametrize(("rotation", "matrix"), zip((0, -90, 180, 90), MATRICES, strict=False))
def test_beside_data_that_have_no_name_pictures_are_turned(rotation, matrix):
    assert _display_matrix(SimpleNamespace(rotation=rotation), other_data) == matrix


def test_a_matrix_of_zeros_turns_nothing(folder, tmp_path):
    source = write_kind(folder, "no_b_frames.mov")
    plain = next(open_recording(source.read_bytes(), "pyav").frames_at([7]))
    zeros = turn_mp4(Path(shutil.copy(source, tmp_path / "a.mov")), (0, 0, 0, 0))
    assert np.array_equal(next(open_recording(zeros.read_bytes(), "pyav").frames_at([7])), plain)
