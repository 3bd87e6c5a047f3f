"""Annotation files that could do harm: small ones that hold much, and what is no mask."""

import gzip
import io

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_matrix

from pipeline.evaluation.annotation_files import (
    check_numbered,
    matlab_array,
    natural,
    numpy_masks,
    unpacked,
)


def test_a_small_file_that_holds_too_much_is_refused():
    content = gzip.compress(bytes(200_000))
    assert len(content) < 1000
    assert unpacked(content, most_bytes=200_000) == bytes(200_000)
    with pytest.raises(ValueError, match="more than 199999 bytes"):
        unpacked(content, most_bytes=199_999)


def mat(**arrays):
    file = io.BytesIO()
    savemat(file, arrays, do_compression=True)
    return file.getvalue()


def test_the_size_of_an_array_is_known_before_it_is_read():
    masks = np.zeros((40, 60, 25), np.uint8)
    content = mat(part_mask=masks, other=np.zeros((300, 300)))
    np.testing.assert_array_equal(matlab_array(content, "part_mask", most_values=60_000), masks)
    with pytest.raises(ValueError, match=r"part_mask is \(40, 60, 25\): more than any clip"):
        matlab_array(content, "part_mask", most_values=59_999)
    with pytest.raises(KeyError):
        matlab_array(content, "missing")


@pytest.mark.parametrize(
    "values",
    [
        np.array([[1.0, np.nan]]),
        np.array([[1 + 1j]]),
        "text",
        {"field": 1},
        np.array(["a", 1], object),
    ],
)
def test_what_is_not_of_numbers_is_no_mask(values):
    with pytest.raises(ValueError, match=r"part_mask is of .*expected finite numbers"):
        matlab_array(mat(part_mask=values), "part_mask")


def test_a_sparse_array_is_no_mask():
    content = mat(part_mask=csc_matrix(np.eye(3)))
    with pytest.raises(ValueError, match=r"part_mask is a cs\w+, expected an array of numbers"):
        matlab_array(content, "part_mask")


def npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_masks_are_of_whole_numbers_and_shares_are_none():
    for dtype in (bool, np.uint8, np.int64):
        values = np.array([[[0, 1], [1, 0]]], dtype)
        np.testing.assert_array_equal(numpy_masks(npy(values)), values != 0)
    for values in (np.array([0.01]), np.array(["a"]), np.zeros(1, "M8[s]"), np.zeros(1, "c8")):
        with pytest.raises(ValueError, match="expected an array of bool or whole numbers, got"):
            numpy_masks(npy(values))
    archive = io.BytesIO()
    np.savez_compressed(archive, a=np.zeros(1000))
    with pytest.raises(ValueError, match="got an archive"):
        numpy_masks(archive.getvalue())


@pytest.mark.parametrize(
    "names",
    [
        ["00000.png"],
        ["00005.png"],
        ["1.png", "2.png", "3.png"],
        ["9.png", "10.png"],
        ["f2_0.png", "f2_1.png"],
        # Nobody knows what these are counted by.
        ["a.png", "b.png"],
        ["f1_a2.png", "f3_b2.png"],
        ["frame_a1.png", "frame_b1.png"],
        ["t0.04.png", "t0.08.png"],
        ["s1_f1.png", "s1_f2.png", "s2_f1.png"],
        # A number that is the same for all counts nothing, and one that stands there twice once.
        ["000001_640.png", "000002_640.png"],
        ["0001_0001.png", "0002_0002.png"],
        ["1.png", "last.png"],
    ],
)
def test_pictures_that_follow_each_other_are_one_for_each_frame(names):
    check_numbered([f"folder 3/{name}" for name in sorted(names, key=natural)])


@pytest.mark.parametrize(
    ("names", "gap"),
    [
        (["00000.png", "00005.png", "00010.png"], "5 behind 0"),
        (["v1_1.png", "v1_2.png", "v1_4.png"], "4 behind 2"),
        (["1.png", "01.png"], "1 behind 1"),
        (["000001_640.png", "000006_640.png"], "6 behind 1"),
        (["0001_0001.png", "0006_0006.png"], "6 behind 1"),
        (["f000_00.png", "f005_00.png"], "5 behind 0"),
        (["shot010.0001.png", "shot010.0006.png"], "6 behind 1"),
        (["v2.0_0001.png", "v2.0_0006.png"], "6 behind 1"),
        (["clip.30.0fps_00001.png", "clip.30.0fps_00006.png"], "6 behind 1"),
        (["c01.5_1.png", "c01.5_6.png"], "6 behind 1"),
    ],
)
def test_pictures_of_which_some_are_left_out_are_refused(names, gap):
    with pytest.raises(ValueError, match=f"expected a mask for each frame, got {gap}"):
        check_numbered([f"folder/{name}" for name in sorted(names, key=natural)])
