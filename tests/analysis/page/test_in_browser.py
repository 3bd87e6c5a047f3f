"""The page in a headless Chromium: what people do with it, without an error or a request."""

import re
from contextlib import contextmanager

import numpy as np
import pytest

from analysis import write_report
from tests.analysis.page.pages import HOSTILE, SEEN, findings_of, write_dataset
from tests.analysis.stores import random_columns, small_layout, write_run

N_CLIPS = 12
AXE = {"preload": False}
"""Else axe would fetch the style sheet, which a page from disk can't."""
VIEWS = ("", "findings", "classes", "class/0", "clip/0", "compare", "run", "search?q=clip1")


@pytest.fixture(scope="module")
def page_url(tmp_path_factory):
    """A page of two runs over clips that exist, whose names try to be markup."""
    folder = tmp_path_factory.mktemp("page")
    dataset = write_dataset(folder / "dataset", N_CLIPS)
    layout = small_layout(N_CLIPS)
    urls = []
    for seed, name in enumerate(("run", "other")):
        columns = random_columns(
            layout,
            seed=seed,
            frame_index=np.tile(SEEN, (N_CLIPS, 1)),
            label=(np.arange(N_CLIPS) % 3).astype(np.int32),
            status=np.array([1] * 11 + [4], np.uint8),
        )
        urls.append(write_run(folder / name, layout, columns, class_names=HOSTILE, **dataset))
    return write_report(urls[0], str(folder / "page"), found=findings_of(HOSTILE), other=urls[1])


@contextmanager
def opened(chromium, url, view="", **options):
    """The page in a context of its own, which must stay without errors, dialogs and requests."""
    context = chromium.new_context(reduced_motion="reduce", **options)
    page = context.new_page()
    wrong = []
    page.on("console", lambda m: m.type in ("error", "warning") and wrong.append(m.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on(
        "request",
        lambda r: r.url.startswith(("file:", "data:", "blob:")) or wrong.append(r.url),
    )
    page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url}"))
    page.goto(f"file://{url}#/{view}")
    page.wait_for_selector("main h1")
    yield page
    assert wrong == []
    context.close()


def names_in(page, selector="table.data tbody tr"):
    """Names of the rows of a table, in their order."""
    return page.locator(f"{selector} .name").all_inner_texts()


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_accessible_and_without_errors(chromium, page_url, view):
    from axe_playwright_python.sync_playwright import Axe

    with opened(chromium, page_url, view) as page:
        page.wait_for_timeout(250)
        found = Axe().run(page, options=AXE).response["violations"]
        assert [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found] == []


@pytest.mark.parametrize(
    "view", ["", *(pytest.param(view, marks=pytest.mark.slow) for view in ("class/0", "clip/0"))]
)
def test_dark_and_narrow_views_keep_their_contrast_and_their_width(chromium, page_url, view):
    from axe_playwright_python.sync_playwright import Axe

    options = {"color_scheme": "dark", "viewport": {"width": 380, "height": 800}}
    with opened(chromium, page_url, view, **options) as page:
        page.wait_for_timeout(200)
        found = Axe().run(page, options=AXE).response["violations"]
        assert [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 380


def test_names_from_data_are_text(chromium, page_url):
    with opened(chromium, page_url, "classes") as page:
        assert sorted(names_in(page)) == sorted(HOSTILE)
        assert page.evaluate("[...document.scripts].every((s) => s.src)")
        page.get_by_role("link", name=HOSTILE[0], exact=True).click()
        # A class has a file of its own, which is loaded first.
        page.wait_for_selector("figure.map")
        assert page.locator("h1").inner_text() == HOSTILE[0]


def test_findings_are_filtered_sorted_and_kept_in_the_address(chromium, page_url):
    with opened(chromium, page_url, "findings") as page:
        # Drift between the runs may add some.
        rows = page.locator("table.data tbody tr")
        n_all = rows.count()
        assert n_all >= 5
        assert "confirmed" in rows.first.inner_text()
        page.get_by_label("Proof").select_option("confirmed")
        assert rows.count() == 1
        assert page.get_by_role("status").filter(has_text="1 of").count() == 1
        assert "proof=confirmed" in page.url
        page.reload()
        page.wait_for_selector("table.data tbody tr")
        assert rows.count() == 1
        assert page.get_by_label("Proof").input_value() == "confirmed"
        page.get_by_label("Proof").select_option("")
        page.get_by_label("Search", exact=True).fill("strategies")
        assert rows.count() == 1
        page.get_by_label("Search", exact=True).fill("nothing like it")
        assert "No finding matches" in rows.first.inner_text()
        page.get_by_label("Search", exact=True).fill("")
        page.get_by_role("button", name="Strength").click()
        strengths = [float(t) for t in page.locator("td[data-label=Strength]").all_inner_texts()]
        assert strengths == sorted(strengths, reverse=True)
        assert len(strengths) == n_all
        assert page.locator("th[aria-sort=descending]").inner_text().startswith("Strength")
        page.get_by_role("button", name="Strength").click()
        assert "sort=strength" in page.url


def test_a_finding_opens_with_its_proof_and_its_clips(chromium, page_url):
    with opened(chromium, page_url, "findings?proof=confirmed") as page:
        page.get_by_role("button", name="Details of finding").press("Enter")
        details = page.locator("tr.details")
        assert "changed by -0.310, for a random part of that size by -0.020" in details.inner_text()
        assert "95 % interval 2.100 to 2.900" in details.inner_text()
        clips = details.locator("a.clip")
        clips.first.wait_for()
        assert clips.count() == 2
        clips.first.click()
        page.wait_for_selector(".player")
        assert page.locator("h1").inner_text() == "clip0"


def test_classes_are_sorted_filtered_and_lead_on(chromium, page_url):
    with opened(chromium, page_url, "classes") as page:
        page.get_by_role("button", name="Accuracy").click()
        texts = page.locator("td[data-label=Accuracy]").all_inner_texts()
        values = [float(text.removesuffix("\u00a0%")) for text in texts]
        assert values == sorted(values, reverse=True)
        page.get_by_label("Search", exact=True).fill("onerror")
        assert names_in(page) == [HOSTILE[1]]
        page.locator("table.data tbody a").click()
        page.wait_for_selector("figure.map")
        assert page.locator("h1").inner_text() == HOSTILE[1]
        alternatives = page.locator("figure.map img").evaluate_all("all => all.map((i) => i.alt)")
        assert len(alternatives) == 4
        assert all(re.search(r"row \d, column \d|nearly uniform", text) for text in alternatives)
        page.get_by_role("button", name="its own").click()
        assert page.get_by_role("button", name="its own").get_attribute("aria-pressed") == "true"
        page.go_back()
        page.wait_for_selector("table.data")
        assert names_in(page) == [HOSTILE[1]]


def test_search_finds_classes_videos_and_findings_by_keyboard(chromium, page_url):
    with opened(chromium, page_url) as page:
        page.keyboard.press("/")
        page.keyboard.type("clip5")
        page.wait_for_selector(".results")
        assert "q=clip5" in page.url
        assert page.evaluate("document.activeElement.id") == "q"
        assert page.get_by_role("heading", name="Videos (1)").count() == 1
        page.locator(".results a").last.click()
        page.wait_for_selector(".player")
        assert page.locator("h1").inner_text() == "clip5"


def test_a_clip_plays_under_its_attribution_and_steps_by_keyboard(chromium, page_url):
    from playwright.sync_api import expect

    with opened(chromium, page_url, "clip/0") as page:
        canvas = page.locator(".screens canvas").first
        page.wait_for_timeout(200)
        assert "most weight at" in canvas.get_attribute("aria-label")
        page.get_by_role("slider", name="Time step").focus()
        page.keyboard.press("Home")
        first = canvas.screenshot()
        assert page.locator(".frame[aria-current=step]").count() == 1
        page.keyboard.press("End")
        second = canvas.screenshot()
        assert first != second
        page.get_by_label("Overlay").fill("0")
        assert canvas.screenshot() != second
        shown = page.locator("output")
        before = shown.inner_text()
        page.get_by_role("button", name="Play").click()
        expect(shown).not_to_have_text(before)
        page.get_by_role("button", name="Pause").click()
        # The other run's attribution lies beside.
        assert page.locator(".screens canvas").count() == 2


def test_the_picture_of_all_classes_is_linked_with_the_list(chromium, page_url):
    with opened(chromium, page_url) as page:
        page.wait_for_selector(".scatter canvas")
        page.get_by_label("Up").select_option("entropy")
        page.locator(".scatter[aria-busy]").wait_for(state="detached")
        assert "y=entropy" in page.url
        assert "Entropy" in page.locator(".linked thead").inner_text()
        page.locator(".scatter canvas").scroll_into_view_if_needed()
        box = page.locator(".scatter canvas").bounding_box()
        page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + 0.05 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.1 * box["height"], steps=5)
        page.mouse.up()
        page.get_by_text("in the brushed area").wait_for()
        assert len(names_in(page, ".linked table.data tbody tr")) < 3


def test_a_view_or_a_clip_that_is_not_there_says_so(chromium, page_url):
    for view, text in (
        ("clip/999", "The page doesn't show row 999"),
        ("class/77", "There is no class 77"),
        ("elsewhere", "There is no such view"),
    ):
        with opened(chromium, page_url, view) as page:
            assert text in page.locator("main").inner_text()


def test_a_page_without_labels_findings_or_frames_is_whole(chromium, tmp_path):
    layout = small_layout(4)
    columns = random_columns(layout, label=np.full(4, -1, np.int32))
    url = write_report(write_run(tmp_path / "run", layout, columns, manifest="gone.parquet"))
    for view in ("", "findings", "classes", "run"):
        with opened(chromium, url, view) as page:
            page.wait_for_timeout(200)
    with opened(chromium, url) as page:
        assert "hasn't been audited" in page.locator("main").inner_text()


def test_what_is_printed_has_no_controls(chromium, page_url):
    with opened(chromium, page_url, "class/0") as page:
        page.emulate_media(media="print")
        assert not page.locator("#search").is_visible()
        assert page.locator("figure.map img").first.is_visible()
