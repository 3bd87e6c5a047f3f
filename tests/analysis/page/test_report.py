"""The page as files: what it holds of a run, and what it leaves out."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from analysis import class_statistics, open_run, write_report
from analysis.audit.audit import save_findings
from analysis.audit.settings import AuditSettings
from analysis.page.folder import site_file
from pipeline.attribution.method import Method
from pipeline.errors import StoreError
from pipeline.status import Status
from tests.analysis.page.pages import HOSTILE, SEEN, data_of, findings_of, write_dataset
from tests.analysis.stores import CLASS_NAMES, random_columns, small_layout, write_run


class Page(HTMLParser):
    """Elements of a page."""

    def __init__(self, source):
        super().__init__()
        self.elements = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def columns_of(layout, **given):
    frame_index = np.tile(SEEN, (layout.n_rows, 1))
    return random_columns(layout, frame_index=frame_index, **given)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A manifest of six clips, the last of which is no video any more."""
    folder = tmp_path_factory.mktemp("dataset")
    given = write_dataset(folder, 6)
    (folder / "clips" / "05.mp4").write_bytes(b"")
    return given


@pytest.mark.parametrize(
    ("name", "of_class", "times_weigh"),
    [("staa", False, True), ("evidence", True, False), ("libragrad", True, True)],
)
def test_a_page_is_told_what_a_map_and_its_times_are_of(
    tmp_path, dataset, name, of_class, times_weigh
):
    layout = small_layout(6)
    method = Method(name=name).resolved(12, pools_mean=False)
    run = write_run(tmp_path / "run", layout, columns_of(layout), method=method, **dataset)
    told = data_of(write_report(run, clips_per_class=1), "overview")
    assert (told["classSpecific"], told["timesWeigh"]) == (of_class, times_weigh)


def test_a_page_shows_its_classes_and_clips_with_their_frames(tmp_path, dataset):
    layout = small_layout(6)
    columns = columns_of(
        layout,
        status=np.array([1, 1, 1, Status.TRUNCATED, 1, 1], np.uint8),
        label=np.array([0, 0, 0, 0, 1, 1], np.int32),
        prediction=np.array([0, 1, 0, 0, 1, 1], np.int32),
        probability=np.array([0.5, 0.6, 0.9, 0.9, 0.4, 0.8], np.float32),
    )
    url = write_report(write_run(tmp_path / "run", layout, columns, **dataset), clips_per_class=1)
    assert url == f"{tmp_path}/run/report/index.html"
    overview = data_of(url, "overview")
    assert overview["classes"]["name"] == list(CLASS_NAMES)
    assert overview["classes"]["n"] == [3, 2, 0]
    assert overview["classes"]["failed"] == [1, 0, 0]
    assert overview["summary"]["accuracy"] == pytest.approx(0.8)
    assert not overview["audited"]
    clips = {
        clip["row"]: clip for index in (0, 1) for clip in data_of(url, f"class-{index}")["clips"]
    }
    assert {row for row, clip in clips.items() if "right" in clip["why"]} == {2, 5}
    assert {row for row, clip in clips.items() if "wrong" in clip["why"]} == {1}
    assert clips[1]["label"] == "archery"
    assert clips[1]["prediction"] == "bowling"
    assert clips[1]["path"] == "01.mp4"
    assert clips[2]["frames"] == [1, 7]
    assert clips[5]["note"] == "the file has no bytes"
    width, height = clips[2]["size"]
    with Image.open(Path(url).parent / clips[2]["picture"]) as picture:
        assert picture.size == (2 * width, height)
    assert data_of(url, "failures") == [
        {"row": 3, "video": "clip3", "status": "truncated", "message": "clip3 is broken"}
    ]
    assert data_of(url, "clips")["row"] == sorted(clips)
    # Over what an earlier page may have there.
    assert data_of(url, "class-2") is None


def test_the_page_needs_no_network_and_runs_no_script_of_its_text(tmp_path, dataset):
    layout = small_layout(6)
    url = write_report(write_run(tmp_path / "run", layout, columns_of(layout), **dataset))
    page = Page(Path(url).read_text())
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv")]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert all("src" in script for script in page.all("script"))
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert not any("style" in attributes for _, attributes in page.elements)
    for attributes in page.all("script") + page.all("link"):
        source = attributes.get("src") or attributes["href"]
        assert source == "data:," or (Path(url).parent / source).is_file()
    for name in (
        "page.css",
        "base.js",
        "figures.js",
        "player.js",
        "plots.js",
        "lists.js",
        "views.js",
    ):
        text = site_file(name)
        assert "@import" not in text
        assert set(re.findall(r"https?://[\w./-]+", text)) <= {
            "http://www.w3.org/2000/svg",
            "https://vega.github.io/schema/vega-lite/v6.json",
        }
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_names_paths_and_messages_are_text(tmp_path):
    layout = small_layout(6)
    columns = columns_of(
        layout,
        status=np.array([1, 1, 1, 1, 1, Status.UNREADABLE], np.uint8),
        video_id=np.array(HOSTILE * 2, object),
        message=np.array(["", "", "", "", "", HOSTILE[0]], object),
        label=np.array([0, 1, 2, 0, 1, 2], np.int32),
    )
    run = write_run(
        tmp_path / HOSTILE[1], layout, columns, class_names=HOSTILE, manifest=f"/none/{HOSTILE[0]}"
    )
    url = write_report(run, str(tmp_path / "page"), found=findings_of(HOSTILE))
    shell = Path(url).read_text()
    assert "alert(1)" in shell
    assert not any(name.startswith("on") for _, a in Page(shell).elements for name in a)
    for script in (tmp_path / "page" / "data").iterdir():
        assert "<" not in script.read_text()
    assert data_of(url, "overview")["classes"]["name"] == list(HOSTILE)


def test_findings_beside_the_run_are_shown_while_they_are_of_its_rows(tmp_path):
    layout = small_layout(9)
    run = write_run(tmp_path / "run", layout, columns_of(layout))
    found = findings_of(CLASS_NAMES)
    save_findings(found, run, AuditSettings())
    url = write_report(run, clips_per_class=0)
    overview = data_of(url, "overview")
    assert overview["audited"]
    assert overview["nFindings"] == len(found)
    assert overview["states"]["confirmed"] == 1
    listed = data_of(url, "findings")
    assert [one["key"] for one in listed] == [one.key for one in found]
    assert listed[2]["low"] is None
    # All their examples are shown, whatever the number of clips of a class.
    shown = reasons_of(url)
    assert shown.keys() == {0, 1, 2, 3, 4, 5, 7}
    assert shown[5] == ["suspect"]
    about = json.loads((tmp_path / "run" / "findings.json").read_text())
    (tmp_path / "run" / "findings.json").write_text(json.dumps({**about, "coverage": 1}))
    assert not data_of(write_report(run), "overview")["audited"]


def reasons_of(url):
    index = data_of(url, "clips")
    names = {f"class-{i}" if i >= 0 else "class-none" for i in index["class"]}
    return {clip["row"]: clip["why"] for name in names for clip in data_of(url, name)["clips"]}


def test_without_its_manifest_a_page_has_no_frames_and_says_so(tmp_path):
    layout = small_layout(6)
    run = write_run(tmp_path / "run", layout, columns_of(layout), manifest="gone.parquet")
    url = write_report(run)
    assert data_of(url, "overview")["sourceNote"].startswith("can't read manifest gone.parquet")
    assert not list(Path(url).parent.glob("images/clip-*"))


def test_frames_are_read_of_so_many_clips_and_no_more(tmp_path, dataset):
    layout = small_layout(6)
    run = write_run(tmp_path / "run", layout, columns_of(layout), **dataset)
    url = write_report(run, clips_with_frames=2)
    assert data_of(url, "overview")["nFrames"] == 2
    assert len(list(Path(url).parent.glob("images/clip-*"))) <= 2


def test_a_run_without_labels_is_shown_by_prediction(tmp_path):
    layout = small_layout(6)
    columns = columns_of(layout, label=np.full(6, -1, np.int32))
    url = write_report(write_run(tmp_path / "run", layout, columns))
    overview = data_of(url, "overview")
    assert overview["by"] == "prediction"
    assert overview["summary"]["accuracy"] is None
    assert data_of(url, "confusion") == {"label": [], "prediction": [], "n": []}


def test_statistics_that_are_given_are_the_ones_shown(tmp_path):
    layout = small_layout(6)
    run = write_run(tmp_path / "run", layout, columns_of(layout))
    statistics = class_statistics(open_run(run), "prediction")
    url = write_report(run, statistics=statistics, clips_per_class=0)
    assert data_of(url, "overview")["by"] == "prediction"
    other = write_run(tmp_path / "other", layout, columns_of(layout), digest="1")
    with pytest.raises(StoreError, match=r"the statistics are of run .*'manifest': '1'"):
        write_report(run, statistics=class_statistics(open_run(other)))


def test_progress_reaches_its_end(tmp_path):
    layout = small_layout(6)
    seen = []
    write_report(
        write_run(tmp_path / "run", layout, columns_of(layout)),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1]


def test_a_page_goes_to_any_filesystem():
    layout = small_layout(4)
    run = write_run("memory://analysis-page/run", layout, columns_of(layout))
    url = write_report(run)
    folder = url.rsplit("/", 1)[0]
    for name in ("index.html", "charts.js", "data/overview.js", "images/maps.png"):
        with fsspec.open(f"{folder}/{name}") as file:
            assert file.read(4)


def test_no_run_is_no_page(tmp_path):
    with pytest.raises(StoreError, match="no store at"):
        write_report(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
