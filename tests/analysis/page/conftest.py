"""A browser for the tests of the page: the machine's own Chromium, if it has one."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NO_BROWSER = "no chromium on this machine: apt-get install chromium"
_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


# Not of the session: Playwright's loop would run on beside those of tests that have their own.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    executable = next(filter(None, map(shutil.which, _NAMES)), None)
    if executable is None:
        pytest.skip(NO_BROWSER)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()
