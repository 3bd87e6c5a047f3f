"""Pictures of real clips as backgrounds: grey levels of the middle frame, cut to fill."""

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.synthetic.textures import find_textures, texture
from tests.support.clips import write_mp4


def test_clips_that_have_a_frame_are_found_and_others_passed_over(tmp_path):
    frames = np.zeros((4, 32, 48, 3), np.uint8)
    for name in ("b.mp4", "a.mkv"):
        write_mp4(tmp_path / name, frames)
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    (tmp_path / "text.txt").write_text("no clip")
    assert find_textures(str(tmp_path)) == (str(tmp_path / "a.mkv"), str(tmp_path / "b.mp4"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no clip that can be decoded"):
        find_textures(str(tmp_path / "empty"))


def test_a_texture_is_the_middle_frame_cut_to_fill_and_toned_down(tmp_path):
    frames = np.full((9, 32, 96, 3), 20, np.uint8)
    # The middle third of the middle frame is white: the rest is cut off.
    frames[4, :, 32:64] = 235
    path = str(write_mp4(tmp_path / "a.mp4", frames, crf="1", g="1"))
    filled = texture(path, 64, 64)
    assert (filled.shape, filled.dtype) == ((64, 64, 3), np.float32)
    assert np.median(filled) == pytest.approx(128 + 0.6 * (235 - 128), abs=3)
    with pytest.raises(ConfigError, match="can't be decoded"):
        texture(str(tmp_path / "gone.mp4"), 8, 8)
