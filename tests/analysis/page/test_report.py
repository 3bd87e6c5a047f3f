"""The page, read back as a browser would: its images, links, escaping, and what it leaves out."""

from html.parser import HTMLParser
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from analysis import class_statistics, open_run, write_report
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.errors import StoreError
from pipeline.status import Status
from tests.analysis.stores import random_columns, small_layout, write_run
from tests.support.clips import numbered_frames, write_mp4

HOSTILE = ('<script>alert("x")</script>', '"onerror="alert(1)', "{{ 7 * 7 }} $x_2$")


class Page(HTMLParser):
    """Elements of a page, and its text with single spaces."""

    def __init__(self, source):
        super().__init__()
        self.elements = []
        self.text = ""
        self.feed(source)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def _page(url):
    return Page(Path(url).read_text(encoding="utf-8"))


@pytest.fixture
def dataset(tmp_path):
    """A manifest of six clips, the last of which is no video any more."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for row in range(6):
        write_mp4(clips / f"{row}.mp4", numbered_frames(12))
    url = str(tmp_path / "manifest.parquet")
    write_manifest(build_manifest(layout="files", clips=str(clips)), url)
    (clips / "5.mp4").write_bytes(b"")
    return {"manifest": url, "digest": read_manifest(url).digest}


def _columns(layout, **given):
    n_rows = layout.n_rows
    frame_index = np.tile(np.array([1, 4, 7, 10], np.int32), (n_rows, 1))
    return random_columns(layout, frame_index=frame_index, **given)


def test_a_report_shows_its_classes_and_clips_and_holds_all_its_images(tmp_path, dataset):
    layout = small_layout(6)
    columns = _columns(
        layout,
        status=np.array([1, 1, 1, Status.TRUNCATED, 1, 1], np.uint8),
        label=np.array([0, 0, 0, 0, 1, 1], np.int32),
        prediction=np.array([0, 1, 0, 0, 1, 1], np.int32),
        probability=np.array([0.5, 0.6, 0.9, 0.9, 0.4, 0.8], np.float32),
    )
    url = write_report(write_run(tmp_path / "run", layout, columns, **dataset))
    assert url == f"{tmp_path}/run/report/index.html"
    page = _page(url)
    images = page.all("img")
    for image in images:
        with Image.open(Path(url).parent / image["src"]) as picture:
            assert picture.size == (int(image["width"]), int(image["height"]))
        assert image["alt"]
        assert image["loading"] == "lazy"
    sources = [image["src"] for image in images if "/clip-" in image["src"]]
    assert sources == ["images/clip-2.png", "images/clip-1.png", "images/clip-4.png"]
    assert "Wrong: bowling (0.60), label archery" in page.text
    assert "row 5 · 5.mp4 · not shown: the file has no bytes" in page.text
    assert "clip3 is broken" in page.text
    assert "truncated" in page.text
    links = {link["href"][1:] for link in page.all("a")}
    assert links <= {attributes.get("id") for _, attributes in page.elements}
    assert {"class-0", "class-1"} <= links
    assert "class-2" not in links


def test_the_page_needs_no_network(tmp_path, dataset):
    layout = small_layout(6)
    url = write_report(write_run(tmp_path / "run", layout, _columns(layout), **dataset))
    source = Path(url).read_text()
    assert "//" not in source.replace("// Sorting", "").replace(str(tmp_path), "")
    assert "@import" not in source
    page = _page(url)
    assert not page.all("link")
    assert all("src" not in script for script in page.all("script"))


def test_names_paths_and_messages_are_text(tmp_path):
    layout = small_layout(6)
    columns = _columns(
        layout,
        status=np.array([1, 1, 1, 1, 1, Status.UNREADABLE], np.uint8),
        video_id=np.array(HOSTILE * 2, object),
        message=np.array(["", "", "", "", "", HOSTILE[0]], object),
        label=np.array([0, 1, 2, 0, 1, 2], np.int32),
    )
    run = write_run(
        tmp_path / "run", layout, columns, class_names=HOSTILE, manifest=f"/none/{HOSTILE[0]}"
    )
    page = _page(write_report(run))
    assert len(page.all("script")) == 1
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert all(name in page.text for name in HOSTILE)
    assert "alert" in page.text


def test_without_its_manifest_a_report_has_no_frames_and_says_so(tmp_path):
    layout = small_layout(6)
    run = write_run(tmp_path / "run", layout, _columns(layout), manifest="gone.parquet")
    page = _page(write_report(run))
    assert "Clips are shown without their frames: can't read manifest gone.parquet" in page.text
    assert not any("/clip-" in image["src"] for image in page.all("img"))
    assert any("-map" in image["src"] for image in page.all("img"))


def test_a_run_without_labels_is_reported_by_prediction(tmp_path, dataset):
    layout = small_layout(6)
    columns = _columns(layout, label=np.full(6, -1, np.int32))
    page = _page(write_report(write_run(tmp_path / "run", layout, columns, **dataset)))
    assert "predicted class" in page.text
    assert "Wrong:" not in page.text
    assert "Correct:" not in page.text
    assert any("/clip-" in image["src"] for image in page.all("img"))


def test_a_run_that_has_just_begun_can_be_reported(tmp_path):
    layout = small_layout(6)
    run = write_run(tmp_path / "run", layout, _columns(layout), pending_shards=(0, 1))
    page = _page(write_report(run))
    assert "pending: the run is not finished" in page.text
    assert page.all("img") == []


def test_failures_are_capped_and_their_number_said(tmp_path):
    layout = small_layout(6)
    columns = _columns(layout, status=np.full(6, Status.MISSING, np.uint8))
    page = _page(write_report(write_run(tmp_path / "run", layout, columns), max_failures=2))
    assert "6 missing. The first 2 of 6 are listed." in page.text
    assert "clip1 is broken" in page.text
    assert "clip2 is broken" not in page.text


def test_statistics_that_are_given_are_the_ones_shown(tmp_path):
    layout = small_layout(6)
    run = write_run(tmp_path / "run", layout, _columns(layout))
    statistics = class_statistics(open_run(run), "prediction")
    page = _page(write_report(run, statistics=statistics, clips_per_class=0))
    assert "predicted class" in page.text
    assert page.all("figure") == []


def test_another_runs_statistics_are_refused(tmp_path):
    layout = small_layout(4)
    run = write_run(tmp_path / "run", layout, _columns(layout))
    other = write_run(tmp_path / "other", layout, _columns(layout), digest="1")
    with pytest.raises(StoreError, match=r"the statistics are of run .*'manifest': '1'"):
        write_report(run, statistics=class_statistics(open_run(other)))


def test_a_report_goes_to_any_filesystem():
    layout = small_layout(4)
    run = write_run("memory://analysis-report/run", layout, _columns(layout))
    url = write_report(run)
    with fsspec.open(url) as file:
        page = Page(file.read().decode())
    folder = url.rsplit("/", 1)[0]
    for image in page.all("img"):
        with fsspec.open(f"{folder}/{image['src']}") as file:
            Image.open(file).verify()


def test_no_run_is_no_report(tmp_path):
    with pytest.raises(StoreError, match="no store at"):
        write_report(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
