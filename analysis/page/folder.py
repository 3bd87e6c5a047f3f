"""The page's folder: its fixed files, its data as scripts, and its pictures, at any fsspec URL."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

import jinja2

from pipeline.storage.files import delete_file, open_filesystem
from pipeline.storage.plain_json import plain
from pipeline.storage.retries import with_retries

_OF_RUN = re.compile(r"data/(class-(\d+|none)|other)\.js|images/clip-\d+\.webp")
"""Files that not every page has, and another page may have left behind."""

_REMOVED_AT_ONCE = 16
_DIGITS = 4
"""Significant digits of the page's numbers: more can't be seen, and costs bytes."""


class PageFolder:
    """Where the page goes."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._filesystem, self._path = open_filesystem(self.url)
        with_retries(url, self._make_folders)
        self._written: set[str] = set()

    def _make_folders(self) -> None:
        for name in ("data", "images"):
            self._filesystem.makedirs(f"{self._path}/{name}", exist_ok=True)

    def write(self, name: str, data: bytes) -> str:
        """Write a file of the page; gives its URL."""
        where = f"{self._path}/{name}"
        with_retries(where, lambda: self._filesystem.pipe_file(where, data))
        self._written.add(name)
        return f"{self.url}/{name}"

    def write_data(self, name: str, value: Any) -> None:
        """Write data as a script that hands it over: a page from disk can't fetch a file.

        Parameters
        ----------
        name
            File name without suffix. It is never made from a class name, which may hold anything.
        """
        self.write(f"data/{name}.js", f"staa.take({as_json(name)},{as_json(value)});\n".encode())

    def remove_left_over(self) -> None:
        """Remove what an earlier page in the folder has written of its run, and this one hasn't.

        These are the pictures of clips and the data of classes and of a second run, by their names;
        whatever else lies in the folder stays.
        """
        there = with_retries(self.url, lambda: self._names("data") | self._names("images"))
        left_over = [n for n in there - self._written if _OF_RUN.fullmatch(n)]
        if left_over:
            # By their names: fsspec's `rm` would take "[" and "*" in the folder's for a pattern.
            with ThreadPoolExecutor(_REMOVED_AT_ONCE) as pool:
                list(pool.map(delete_file, (f"{self.url}/{name}" for name in left_over)))

    def _names(self, part: str) -> set[str]:
        self._filesystem.invalidate_cache()
        try:
            paths = self._filesystem.ls(f"{self._path}/{part}", detail=False)
        except FileNotFoundError:
            return set()
        return {f"{part}/{path.rpartition('/')[2]}" for path in paths}


def as_json(value: Any) -> str:
    """Write plain values, arrays and their nests as JSON: NaN as null, ``<`` as its number.

    So no text of a run can end a script or begin markup, wherever the JSON is put.
    """
    text = json.dumps(plain(value, _short), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _short(number: float) -> float:
    short = float(f"{number:.{_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def site_file(name: str) -> str:
    """Text of a fixed file of the page."""
    return (files("analysis.page") / "site" / name).read_text(encoding="utf-8")


def render_shell(**context: Any) -> str:
    """Fill in the page's frame; whatever is in the context is text, never markup."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(site_file("index.html")).render(context)
