"""Headers of many clips, opened in children, in order."""

import numpy as np
import pytest

from pipeline.clips.check import Header, check_headers
from pipeline.status import Status
from tests.support.clips import numbered_frames, write_mp4


def test_headers_come_in_order_with_what_each_says(tmp_path):
    frames = numbered_frames(30, height=48, width=80)
    for n_frames in (5, 12, 30):
        write_mp4(tmp_path / f"{n_frames}.mp4", frames[:n_frames], fps=10)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    paths = ["30.mp4", "gone.mp4", "5.mp4", "empty.mp4", "12.mp4", "text.mp4", "5.mp4"]
    headers = list(check_headers(str(tmp_path), paths, n_workers=2, n_at_once=3))
    assert [header.n_frames for header in headers] == [30, 0, 5, 0, 12, 0, 5]
    statuses = [header.status for header in headers]
    assert [statuses[at] for at in (0, 2, 4, 6)] == [Status.OK] * 4
    assert [statuses[at] for at in (1, 3, 5)] == [Status.MISSING, Status.EMPTY, Status.UNREADABLE]
    assert headers[0].last_frame_s == pytest.approx(2.9)
    assert all(np.isnan(headers[at].last_frame_s) for at in (1, 3, 5))


def test_a_header_is_said_in_words():
    assert str(Header(Status.OK, n_frames=3)) == "header ok"
    assert str(Header(Status.UNREADABLE, "no video")) == "unreadable: no video"
