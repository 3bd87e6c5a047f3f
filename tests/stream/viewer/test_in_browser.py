"""The live page in a headless Chromium, fed by a simulated feed: what people see and hear of it."""

from contextlib import contextmanager

import numpy as np
import pytest

from pipeline.stream.explained import SourceState
from pipeline.stream.viewer import serve
from pipeline.stream.viewer.overlay import DrawnWindow, Playhead, blended
from tests.stream.viewer.feeds import HOSTILE, Feed, explained, picture, status
from tests.stream.viewer.serving import TOKEN, address, served

AXE = {"preload": False}
ALARM = {
    "kind": "drift",
    "said": f"In {HOSTILE[0]} the border mass is 0.42 since window 61",
    "stream": HOSTILE[1],
    "class": HOSTILE[0],
    "score": "border_mass",
    "effect": 4.1234,
    "effect_unit": "sd",
    "from_window": 61,
    "to_window": 70,
    "before": [55, 57],
    "after": [64, 69],
}


@contextmanager
def opened(chromium, url, *, may_say=(), **options):
    """The page in a context of its own, which must stay without errors, dialogs and requests."""
    context = chromium.new_context(reduced_motion="reduce", **options)
    page = context.new_page()
    wrong = []
    page.on("console", lambda m: m.type in ("error", "warning") and wrong.append(m.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on(
        "request",
        lambda r: (
            r.url.startswith((url.partition("?")[0], "data:", "blob:")) or wrong.append(r.url)
        ),
    )
    page.goto(url)
    page.wait_for_selector(".tile")
    yield page
    assert [text for text in wrong if not any(allowed in text for allowed in may_say)] == []
    context.close()


def fed(running, *streams):
    """One window, picture and state for each stream."""
    for stream in streams:
        running.viewer.picture(picture(stream, 1.0))
        running.viewer.shown(explained(stream, 0, peak=(1, 6)))
        running.viewer.status(status(stream, rate=1.5, skipped=2))


@contextmanager
def in_every_state(name, **told):
    """Serve a page that has a stream in each state a source can have."""
    streams = {f"{name} {state}": state for state in SourceState}
    with served(*streams) as running:
        fed(running, *streams)
        for stream, state in streams.items():
            running.viewer.status(status(stream, state, "why it is so", **told))
        yield running


@pytest.mark.parametrize(
    "options",
    [{}, {"color_scheme": "dark", "viewport": {"width": 380, "height": 800}}],
    ids=["wide", "dark and narrow"],
)
def test_the_page_is_accessible_and_without_errors(chromium, options):
    from axe_playwright_python.sync_playwright import Axe

    states = list(SourceState)
    with in_every_state("camera", skipped=3) as running:
        running.alarm(ALARM)
        with opened(chromium, running.url, **options) as page:
            page.locator(".waiting").last.wait_for(state="hidden")
            page.wait_for_timeout(200)
            found = Axe().run(page, options=AXE).response["violations"]
            assert [(v["id"], [n["html"][:160] for n in v["nodes"][:3]]) for v in found] == []
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= page.evaluate("document.documentElement.clientWidth")
            badges = page.locator(".state").all_inner_texts()
            assert [text.partition(":")[0] for text in badges] == [str(state) for state in states]


@pytest.mark.parametrize("width", [320, 380, 900])
def test_names_and_controls_are_seen_whole_on_a_screen_of_any_width(chromium, width):
    screen = {"width": width, "height": 800}
    with in_every_state("door") as running, opened(chromium, running.url, viewport=screen) as page:
        page.get_by_text("ended", exact=True).wait_for()
        cut_off = page.evaluate(
            """() => [...document.querySelectorAll("header *")].filter(
              (element) => {
                const holder = element.closest("header");
                const style = getComputedStyle(holder), outer = holder.getBoundingClientRect();
                const { left, right, width } = element.getBoundingClientRect();
                return width && (left < outer.left + parseFloat(style.paddingLeft) - 1
                  || right > outer.right - parseFloat(style.paddingRight) + 1);
              }).map((element) => element.outerHTML)"""
        )
        assert cut_off == []
        shown = page.locator(".tile h2").evaluate_all(
            "all => all.map((e) => e.scrollWidth <= e.clientWidth)"
        )
        assert shown == [True] * len(SourceState)


def test_tiles_say_the_class_the_place_the_time_and_what_was_skipped(chromium):
    from playwright.sync_api import expect

    with served("yard", "door") as running:
        fed(running, "yard", "door")
        with opened(chromium, running.url) as page:
            tile = page.locator(".tile").first
            expect(tile.locator(".answer")).to_contain_text("wave71 %")
            picture_label = tile.locator("canvas").get_attribute("aria-label")
            assert "yard: wave; most weight at the top right, row 2 of 7, column 7 of 7" in (
                picture_label
            )
            bars = tile.locator(".bars").get_attribute("aria-label")
            assert "Weight over 2.0 s: most at" in bars
            expect(tile.locator(".facts")).to_contain_text("2 windows")
            expect(tile.locator(".facts")).to_contain_text("1.5 / s")
            expect(tile.locator(".ticks")).to_contain_text("0.00 s")
            expect(tile.locator(".ticks")).to_contain_text("weight over time")
            # Another class, by hysteresis after three windows, is said aloud.
            said = page.locator("#said")
            for window in range(1, 4):
                running.viewer.shown(
                    explained("yard", window, top=(("kick ball", 0.5), ("wave", 0.4)))
                )
            expect(said).to_contain_text("yard: now kick ball; most weight at")
            running.viewer.status(status("yard", "lost", "no route"))
            expect(said).to_contain_text("yard is lost: trying again. no route")
            expect(tile.locator(".reason")).to_have_text("no route")


PIXELS = "document.querySelector('canvas').toDataURL()"


def changes(page, before):
    """Whether the canvas gets other pixels; the page's policy forbids `wait_for_function`."""
    for _ in range(200):
        if page.evaluate(PIXELS) != before:
            return True
        page.wait_for_timeout(50)
    return False


def test_pictures_move_under_the_overlay_which_can_be_taken_off_and_stopped(chromium):
    from playwright.sync_api import expect

    with served("yard") as running:
        feed = Feed(running.viewer, ["yard"], hop_s=0.25)
        with feed, opened(chromium, running.url) as page:
            page.locator(".waiting").wait_for(state="hidden")
            assert changes(page, page.evaluate(PIXELS))
            ticks = page.locator(".ticks").inner_text()
            expect(page.locator(".ticks")).not_to_have_text(ticks)
            # By keyboard.
            page.get_by_role("button", name="Pause").press("Enter")
            expect(page.get_by_role("button", name="Pause")).to_have_attribute(
                "aria-pressed", "true"
            )
            page.wait_for_timeout(100)
            stopped = page.evaluate(PIXELS)
            page.wait_for_timeout(400)
            assert page.evaluate(PIXELS) == stopped
            page.get_by_role("slider", name="Overlay").press("Home")
            page.get_by_role("button", name="Pause").press("Enter")
            assert changes(page, stopped)
            # Without the overlay nothing reddish lies over the picture, whose red is 60 to 120.
            page.wait_for_function(
                """() => {
                  const canvas = document.querySelector("canvas");
                  const all = canvas.getContext("2d").getImageData(0, 0, canvas.width, 60).data;
                  return Math.max(...all.filter((_, i) => i % 4 === 0)) < 130;
                }"""
            )


def test_names_and_alarms_from_data_are_text(chromium):
    from playwright.sync_api import expect

    with served(*HOSTILE) as running:
        fed(running, *HOSTILE)
        running.viewer.shown(explained(HOSTILE[0], 1, top=((HOSTILE[1], 0.99), ("wave", 0.01))))
        running.viewer.status(status(HOSTILE[2], "lost", HOSTILE[0]))
        running.alarm(ALARM)
        with opened(chromium, running.url) as page:
            expect(page.locator(".tile h2").first).to_have_text(HOSTILE[0])
            expect(page.locator(".answer b").first).to_have_text(HOSTILE[1])
            expect(page.locator("#alarm-list")).to_contain_text(ALARM["said"])
            expect(page.locator("#alarm-list")).to_contain_text("effect 4.12 sd")
            expect(page.locator("#alarm-list")).to_contain_text("after, see windows 64, 69")
            expect(page.locator("#alarmed")).to_contain_text("Alarm: In <img")
            assert page.locator(".tile img, .tile script, #alarms img").count() == 0


def test_each_alarm_is_said_once_however_many_there_are(chromium):
    from playwright.sync_api import expect

    def alarm(number):
        return {**ALARM, "said": f"alarm {number}", "from_window": number}

    running = serve(streams=["yard"])
    port = address(running)[1]
    for number in range(60):
        running.alarm(alarm(number))
    with opened(chromium, running.url, may_say=("ERR_CONNECTION",)) as page:
        said = page.locator("#alarmed")
        expect(said).to_have_text("Alarm: alarm 59")
        running.alarm(alarm(60))
        expect(said).to_have_text("Alarm: alarm 60")
        page.evaluate("document.getElementById('alarmed').textContent = ''")
        running.stop()
        expect(page.locator("#connection")).to_contain_text("Not connected")
        with served("yard", port=port) as again:
            again.alarm(alarm(60))
            expect(page.locator("#connection")).to_have_text("Connected", timeout=20000)
            expect(page.locator("#alarm-list")).to_contain_text("alarm 60")
            expect(said).to_have_text("")


def test_the_page_comes_back_by_itself_when_the_server_restarts(chromium):
    from playwright.sync_api import expect

    running = serve(streams=["yard"])
    port = address(running)[1]
    refused = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET")
    with opened(chromium, running.url, may_say=refused) as page:
        fed(running, "yard")
        expect(page.locator(".answer")).to_contain_text("wave")
        running.stop()
        expect(page.locator("#connection")).to_contain_text("Not connected: trying again in")
        with served("yard", "door", port=port) as again:
            fed(again, "yard", "door")
            expect(page.locator("#connection")).to_have_text("Connected", timeout=20000)
            expect(page.locator(".tile")).to_have_count(2)
            expect(page.locator(".answer").last).to_contain_text("wave")


def test_a_browser_enters_by_the_token_and_keeps_no_trace_of_it(chromium):
    with served("yard", host="0.0.0.0", token=TOKEN) as running:
        fed(running, "yard")
        url = f"http://127.0.0.1:{address(running)[1]}/"
        with opened(chromium, f"{url}?token={TOKEN}") as page:
            page.locator(".waiting").wait_for(state="hidden")
            assert page.url == url
            assert page.evaluate("document.cookie") == ""


def test_the_browser_blends_and_plays_as_the_server_does(chromium):
    random = np.random.default_rng(7)
    windows = []
    for start_s in (0.0, 0.7, 1.4, 2.0):
        levels = random.integers(0, 256, (3, 4, 5)).astype(np.uint8)
        step_s = start_s + np.array([0.3, 1.0, 1.7])
        windows.append(DrawnWindow(start_s, start_s + 2, step_s, levels / np.float32(255)))
    as_sent = [
        {
            "start_s": w.start_s,
            "end_s": w.end_s,
            "step_s": w.step_s.tolist(),
            "grid": [3, 4, 5],
            "bytes": (w.levels * 255).round().astype(int).ravel().tolist(),
        }
        for w in windows
    ]
    times = [float(t) for t in random.uniform(-0.2, 4.2, 40)]
    arrivals = np.cumsum(random.uniform(0.3, 1.5, 30))
    acts = sorted(
        # The last ones lie far apart.
        [("window", float(t), 2 + 0.8 * i + 15 * max(0, i - 25)) for i, t in enumerate(arrivals)]
        + [("at", float(t), 0.0) for t in random.uniform(0, 30, 200)],
        key=lambda act: act[1],
    )
    playhead, positions = Playhead(), []
    for kind, now_s, end_s in acts:
        if kind == "window":
            playhead.window_arrived(end_s, now_s)
        else:
            positions.append(playhead.at(now_s))
    with served("yard") as running, opened(chromium, running.url) as page:
        found = page.evaluate(
            """([windows, times]) => times.map((t) => {
              const levels = blended(windows, t);
              return levels && [...levels];
            })""",
            [as_sent, times],
        )
        for time_s, levels in zip(times, found, strict=True):
            expected = blended(windows, time_s)
            assert (levels is None) == (expected is None)
            if levels is not None:
                np.testing.assert_allclose(levels, expected.ravel(), atol=1e-6)
        played = page.evaluate(
            """(acts) => {
              const playhead = new Playhead();
              const at = [];
              for (const [kind, now, end] of acts) {
                if (kind === "window") playhead.windowArrived(end, now);
                else at.push(playhead.at(now));
              }
              return at;
            }""",
            acts,
        )
    assert [p is None for p in played] == [p is None for p in positions]
    np.testing.assert_allclose(
        [p for p in played if p is not None], [p for p in positions if p is not None], atol=1e-9
    )
