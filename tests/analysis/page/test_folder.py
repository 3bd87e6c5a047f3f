"""The page's folder: files at any URL, data as scripts, and texts that stay texts."""

import json

import fsspec
import jinja2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.page.folder import PageFolder, as_json, render_shell


def url_of_disk(tmp_path):
    return str(tmp_path / "page")


def url_of_memory(tmp_path):
    return f"memory://{tmp_path.name}/page"


@pytest.mark.parametrize("url_of", [url_of_disk, url_of_memory])
def test_files_and_data_lie_below_the_page(tmp_path, url_of):
    url = url_of(tmp_path)
    folder = PageFolder(f"{url}/")
    assert folder.write("index.html", b"<p>") == f"{url}/index.html"
    folder.write_data("class-1", {"a": 1})
    with fsspec.open(f"{url}/data/class-1.js") as file:
        assert file.read() == b'staa.take("class-1",{"a":1});\n'
    # A second page of the same run goes over the first.
    PageFolder(url).write("index.html", b"again")
    with fsspec.open(f"{url}/index.html") as file:
        assert file.read() == b"again"


@pytest.mark.parametrize("url_of", [url_of_disk, url_of_memory])
def test_what_an_earlier_page_left_is_removed_and_nothing_else(tmp_path, url_of):
    url = url_of(tmp_path)
    first = PageFolder(url)
    for row in (3, 14):
        first.write(f"images/clip-{row}.webp", b"of the first")
    for name in ("class-0", "class-7", "class-none", "other", "overview"):
        first.write_data(name, "of the first")
    first.write("images/maps.png", b"of the first")
    mine = ("notes.txt", "images/clip-3.webp.bak", "images/clip-a.webp", "data/class-x.js")
    filesystem, path = fsspec.core.url_to_fs(url)
    for name in mine:
        filesystem.pipe_file(f"{path}/{name}", b"mine")
    second = PageFolder(url)
    second.write("images/clip-14.webp", b"of the second")
    second.write_data("class-0", "of the second")
    second.remove_left_over()
    left = {name.removeprefix(path).strip("/") for name in filesystem.find(path)}
    assert left == {
        *mine,
        *("images/clip-14.webp", "images/maps.png"),
        *("data/class-0.js", "data/overview.js"),
    }
    PageFolder(f"{url}-of-another").remove_left_over()


TEXTS = st.text() | st.sampled_from(["</script>", "<!--", "\u2028", "\x00", "]]>", "\\u003c"])


@given(st.recursive(TEXTS | st.integers() | st.booleans() | st.none(), st.lists, max_leaves=8))
def test_json_says_the_same_without_an_opening_bracket(value):
    text = as_json(value)
    assert "<" not in text
    assert json.loads(text) == value


def test_numbers_are_short_and_what_is_none_is_null():
    value = {"a": np.array([0.123456, np.nan, np.inf]), "n": np.int64(3), "w": (1.0, np.float32(2))}
    assert as_json(value) == '{"a":[0.1235,null,null],"n":3,"w":[1,2]}'


def test_what_the_shell_is_filled_with_is_text_and_never_markup():
    shell = render_shell(name='"><script>x</script>', run_url="{{ 7 * 7 }}")
    assert shell.count("<script") == shell.count("<script src=")
    assert "{{ 7 * 7 }}" in shell
    with pytest.raises(jinja2.UndefinedError, match="'name' is undefined"):
        render_shell(run_url="run")
