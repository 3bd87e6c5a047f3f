"""Text as it is printed: one line, of bounded length, that does nothing to a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text import LINE_LENGTH, holds_credentials, one_line, printable, without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü \N{EN DASH} 视频.mp4", "plain ü \N{EN DASH} 视频.mp4"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("fdp\u202e4pm.exe", r"fdp\u202e4pm.exe"),
        ("a\tb", r"a\x09b"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_would_do_something_is_told_by_its_number(text, shown):
    assert printable(text) == shown


@given(st.text())
def test_no_control_character_is_left_and_nothing_else_is_changed(text):
    shown = printable(text)
    assert not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in shown)
    assert shown.isascii() or shown.encode()
    assert printable(shown) == shown


@given(st.text(), st.integers(20, 100))
def test_a_line_is_one_and_no_longer_than_it_may_be(text, at_most):
    line = one_line(text, at_most=at_most)
    assert len(line) <= at_most
    assert len(line.splitlines()) <= 1


def test_of_a_long_line_start_and_end_are_kept():
    line = one_line("manifest: " + "x" * 1000 + " expected a path")
    assert len(line) == LINE_LENGTH
    assert line.startswith("manifest: xxx")
    assert line.endswith("xxx expected a path")
    assert " ... " in line


def test_lines_are_joined_and_empty_ones_go():
    assert one_line("  first\n\n   second \r\n third") == "first second third"


SECRET = "4b1dc0ffee"


SIGNED = (
    f"https://bucket.example/a.mp4?X-Amz-Algorithm=AWS4&X-Amz-Signature={SECRET}",
    f"https://account.example/a.mp4?sv=2024&sig={SECRET}",
    f"https://bucket.example/a.mp4?GoogleAccessId=me&Signature={SECRET}",
    f"https://host.example/a.mp4?token={SECRET}&part=1",
    f"https://user:{SECRET}@host.example/a.mp4",
)


UNSIGNED = (
    "s3://bucket/a.mp4",
    "bucket/key=3/a b?c=1.mp4",
    "s3://bucket/user@host/a.mp4",
    "/home/me@work/a.mp4",
    "a?key=5.mp4",
    "s3://bucket/clips/a?token=6.webm",
    "https://host.example/clips/a?key=5.mp4",
    "http://host.example:9000/bucket/user@host/a.mp4",
    "http://[2001:db8::1]:9000/bucket/user@host/a.mp4",
)


@pytest.mark.parametrize("url", SIGNED)
def test_credentials_in_urls_are_found_and_blotted_out(url):
    assert holds_credentials(url)
    told = without_credentials(f"can't read {url}: refused")
    assert SECRET not in told
    assert told.startswith("can't read https://")


def test_a_path_without_a_protocol_has_no_query():
    assert not holds_credentials("runs/a?key=5")
    assert holds_credentials("clip.mp4?X-Amz-Signature=4b1dc0ffee")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rtsp://admin:p@ss@10.0.0.5/live", "rtsp://***@10.0.0.5/live"),
        ("rtsp://admin:p@ss@10.0.0.5", "rtsp://***@10.0.0.5"),
        ("rtsp://admin:pa/ss@10.0.0.5/live", "rtsp://***@10.0.0.5/live"),
        ("rtsp://admin:p@a/s@s@10.0.0.5:554/live", "rtsp://***@10.0.0.5:554/live"),
        ("rtsp://admin:12345@10.0.0.5/live", "rtsp://***@10.0.0.5/live"),
        ("rtsp://p@ss@10.0.0.5/live", "rtsp://***@10.0.0.5/live"),
        ("rtsp://admin:1234/abc@cam.local/1", "rtsp://***@cam.local/1"),
        ("rtsp://ad@min:12/3@cam/1 and rtsp://cam:554/1", "rtsp://***@cam/1 and rtsp://cam:554/1"),
        (
            "neither rtsp://a:p@s@one/1 nor 'rtsp://b:q/s@two/2' nor http://three:80/c@d answers",
            "neither rtsp://***@one/1 nor 'rtsp://***@two/2' nor http://three:80/c@d answers",
        ),
        ("rtsp://a:p/s@one/1,rtsp://b:q@s@two/2", "rtsp://***@one/1,rtsp://***@two/2"),
        ("http://three/1,rtsp://b:q@s@two/2", "http://three/1,rtsp://***@two/2"),
    ],
)
def test_of_a_password_nothing_is_left_whatever_is_in_it(text, told):
    assert without_credentials(text) == told
    assert holds_credentials(text) == text.startswith("rtsp:")


@pytest.mark.parametrize("url", UNSIGNED)
def test_other_urls_and_paths_are_left_alone(url):
    assert not holds_credentials(url)
    assert without_credentials(f"can't read {url}: refused") == f"can't read {url}: refused"
