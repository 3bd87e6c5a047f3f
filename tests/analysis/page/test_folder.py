"""The page's folder: files at any URL, pictures with their sizes, a template without gaps."""

import fsspec
import jinja2
import numpy as np
import pytest

from analysis.page.figures import pixels_png
from analysis.page.folder import PageFolder, Picture, _count, _decimals, _percent, render_page

NONE = "\N{EN DASH}"


def url_of_disk(tmp_path):
    return str(tmp_path / "report")


def url_of_memory(tmp_path):
    return f"memory://{tmp_path.name}/report"


@pytest.mark.parametrize("url_of", [url_of_disk, url_of_memory])
def test_files_and_pictures_lie_below_the_page(tmp_path, url_of):
    url = url_of(tmp_path)
    folder = PageFolder(url)
    assert folder.write("index.html", b"<p>") == f"{url}/index.html"
    png = pixels_png(np.zeros((3, 5, 3), np.uint8))
    assert folder.add_picture("map-1", png, "a map") == Picture("images/map-1.png", "a map", 5, 3)
    with fsspec.open(f"{url}/images/map-1.png") as file:
        assert file.read() == png
    with fsspec.open(f"{url}/index.html") as file:
        assert file.read() == b"<p>"
    # A second report of the same run goes over the first.
    PageFolder(url).write("index.html", b"again")
    with fsspec.open(f"{url}/index.html") as file:
        assert file.read() == b"again"


def test_numbers_are_shown_as_people_read_them():
    assert _count(1234567) == "1,234,567"
    assert (_percent(0.12345), _percent(None), _percent(float("nan"))) == ("12.3 %", NONE, NONE)
    assert (_decimals(0.005), _decimals(float("nan"))) == ("0.01", NONE)


@pytest.fixture
def template(monkeypatch):
    """A template of one name, in the place of the report's."""
    loader = jinja2.DictLoader({"report.html": "<p>{{ name }} {{ 1234 | count }}</p>"})
    monkeypatch.setattr(jinja2, "PackageLoader", lambda package: loader)


def test_what_is_filled_in_is_text_and_never_markup(template):
    assert render_page(name="<b>&") == "<p>&lt;b&gt;&amp; 1,234</p>"


def test_what_the_template_lacks_is_an_error_and_no_gap(template):
    with pytest.raises(jinja2.UndefinedError, match="'name' is undefined"):
        render_page()
