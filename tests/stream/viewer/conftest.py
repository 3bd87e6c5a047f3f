"""The browser of the other page's tests."""

from tests.analysis.page.conftest import chromium

__all__ = ["chromium"]
