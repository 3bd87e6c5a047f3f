"""Credentials in URLs are found and blotted out, and nothing else is."""

import pytest

from pipeline.credentials import holds_credentials, without_credentials

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


@pytest.mark.parametrize("url", UNSIGNED)
def test_other_urls_and_paths_are_left_alone(url):
    assert not holds_credentials(url)
    assert without_credentials(f"can't read {url}: refused") == f"can't read {url}: refused"
