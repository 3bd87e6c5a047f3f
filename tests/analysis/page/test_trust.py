"""How far to trust the maps, as the page has it: figures, flags, and the gap of each class."""

import numpy as np
import pytest

from analysis import open_run, write_report
from analysis.measured_columns import sample_of_run
from analysis.page.trust import trust_of
from tests.analysis.page.pages import data_of
from tests.analysis.page.test_in_browser import opened
from tests.analysis.stores import (
    CLASS_NAMES,
    random_columns,
    small_layout,
    write_run,
    write_sample,
)

N_CLIPS = 36


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    layout = small_layout(N_CLIPS)
    label = np.arange(N_CLIPS, dtype=np.int32) % 3
    columns = random_columns(layout, label=label)
    return write_run(tmp_path_factory.mktemp("run") / "run", layout, columns)


@pytest.fixture(scope="module")
def measured(run):
    # Two classes alone.
    rows = np.array([row for row in range(N_CLIPS) if row % 3 < 2])
    return rows, write_sample(run, rows)


def test_figures_are_of_the_sample_and_what_is_flagged_is_marked(run, measured):
    rows, values = measured
    trust = trust_of(sample_of_run(run, open_run(run), []), [*CLASS_NAMES, "new"])
    assert trust["n"] == 24
    named = {f["name"]: f for group in trust["groups"].values() for f in group}
    gap = (values["gap"] - values["random_gap"]).mean(axis=1)
    assert named["gap patches"]["mean"] == pytest.approx(gap[:, 0].mean(), abs=1e-6)
    assert [name for name, f in named.items() if f["flagged"]] == ["gap frames"]
    # Of what is only reported, nothing stands here.
    assert "paper's tau" not in named
    assert named["removed 5%"]["better"] == "higher"
    assert named["kept 5%"]["better"] == named["class sensitivity"]["better"] == "lower"
    assert trust["own"]["mean"] == pytest.approx(values["shapley_agreement"].mean(), abs=1e-6)
    assert f"at {values['recomputed'].mean():.3f} only" in trust["notes"][-1]
    classes = trust["classes"]
    assert classes["n"] == [12, 12, 0, 0]
    assert classes["mean"][2:] == [None, None]
    assert classes["mean"][1] == pytest.approx(gap[rows % 3 == 1, 0].mean(), abs=1e-6)
    assert classes["low"][0] < classes["mean"][0] < classes["high"][0]


def test_nothing_is_shown_of_a_run_that_was_not_measured(tmp_path):
    layout = small_layout(6)
    run = write_run(tmp_path / "run", layout, random_columns(layout))
    assert trust_of(sample_of_run(run, open_run(run), []), CLASS_NAMES) is None
    overview = data_of(write_report(run, str(tmp_path / "page")), "overview")
    assert overview["trust"] is None
    # Marked all the same, and what the mark means is said where the scores are described.
    assert overview["flagged"] == ["entropy", "gini", "gap_frames"]
    assert "ranks a corrupted truth above the truth" in overview["describe"]["entropy"]
    assert "corrupted" not in overview["describe"]["border_mass"]


def test_the_page_shows_it_at_any_width_sorted_by_the_gap(chromium, run, measured, tmp_path):
    page_url = write_report(run, str(tmp_path / "page"))
    for width in (1200, 400):
        with opened(chromium, page_url, viewport={"width": width, "height": 800}) as page:
            section = page.locator("section", has=page.locator("h2", has_text="How far to trust"))
            text = section.inner_text()
            assert "gap frames !" in text
            assert "ranks a corrupted truth above the truth" in text
            assert "T of the map" in text
            assert "class sensitivity" in text
            assert "another release, machine or precision has made them" in text
            gaps = data_of(page_url, "overview")["trust"]["classes"]["mean"][:2]
            order = [CLASS_NAMES[i] for i in np.argsort(gaps)]
            names = section.locator("table.data tbody .name").all_inner_texts()
            assert [name.strip() for name in names] == order
            assert section.locator(".interval-mark").count() == 2
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    with opened(chromium, page_url, "class/0") as page:
        assert "Gap over patches" in page.locator("main").inner_text()
    with opened(chromium, page_url, "class/2") as page:
        assert "Gap over patches" not in page.locator("main").inner_text()


def test_the_view_is_accessible(chromium, run, measured, tmp_path):
    from axe_playwright_python.sync_playwright import Axe

    page_url = write_report(run, str(tmp_path / "page"))
    with opened(chromium, page_url) as page:
        page.wait_for_timeout(250)
        found = Axe().run(page, options={"preload": False}).response["violations"]
        assert [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found] == []
