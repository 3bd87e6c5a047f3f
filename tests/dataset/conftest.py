"""A folder of clips as datasets have them."""

import pytest


@pytest.fixture
def root(tmp_path):
    """A folder of clips, flat, in class folders, and with awkward names."""
    for name in (
        "zzzzzzzzzzz_000005_000015.mkv",
        "train/playing ü/-_aaaaaaaaa_000000_000010.webm",
        "b class/2.mp4",
        "b class/1.MP4",
        "a 'class' \"ü\"/10.avi",
        "a 'class' \"ü\"/below/9.mov",
        "notes.txt",
    ):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "clips"
