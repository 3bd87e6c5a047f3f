"""The report's page: its folder of files, its images, and the template that is filled in."""

import io
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from pipeline.storage.files import open_filesystem
from pipeline.storage.retries import with_retries

_NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Picture:
    """An image of the page."""

    source: str
    """URL relative to the page."""
    alt: str
    """What it shows, in words."""
    width: int
    """Pixels; with the height, it keeps a lazily loaded page from jumping."""
    height: int


class PageFolder:
    """Where the page and its images go, at any fsspec URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._filesystem, self._path = open_filesystem(url)
        with_retries(url, lambda: self._filesystem.makedirs(f"{self._path}/images", exist_ok=True))

    def write(self, name: str, data: bytes) -> str:
        """Write a file of the report; gives its URL."""
        where = f"{self._path}/{name}"
        with_retries(where, lambda: self._filesystem.pipe_file(where, data))
        return f"{self.url}/{name}"

    def add_picture(self, name: str, png: bytes, alt: str) -> Picture:
        """Write an image of the report.

        Parameters
        ----------
        name
            File name without suffix. It is never made from a class name, which may hold anything.
        """
        source = f"images/{name}.png"
        self.write(source, png)
        width, height = Image.open(io.BytesIO(png)).size
        return Picture(source, alt, width, height)


def render_page(**context: Any) -> str:
    """Fill in the template; whatever is in the context is text, never markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=_count, percent=_percent, decimals=_decimals)
    return environment.get_template("report.html").render(context)


def _count(value: int) -> str:
    return f"{value:,}"


def _percent(value: float | None) -> str:
    return _NONE if value is None or np.isnan(value) else f"{100 * value:.1f} %"


def _decimals(value: float) -> str:
    return _NONE if np.isnan(value) else f"{value:.2f}"
