"""The latest of each kind, to any number of followers, from any thread."""

import asyncio
import json
import threading

import pytest

from pipeline.stream.explained import Viewer
from pipeline.stream.viewer.hub import Hub
from tests.stream.viewer.feeds import explained, picture, status
from tests.support.processes import until


def followed(act, n, **options):
    """What a follower gets in ``n`` turns, each after `act` has put something."""

    async def run():
        hub = Hub(["a", "b"])
        hub.attach(asyncio.get_running_loop())
        act(hub, 0)
        following = hub.follow(**options)
        turns = []
        for turn in range(n):
            entries = await asyncio.wait_for(anext(following), 10)
            turns.append([(e.kind, e.stream) for e in entries])
            act(hub, turn + 1)
        await following.aclose()
        assert hub.n_viewers == 0
        return turns

    return asyncio.run(run())


def test_a_hub_is_a_viewer():
    hub: Viewer = Hub(["a"])
    assert hub.streams == ("a",)


def test_only_the_latest_is_given_oldest_first():
    def act(hub, turn):
        if turn == 0:
            for window in range(4):
                hub.shown(explained("b", window))
                hub.picture(picture("a"))
            hub.status(status("a"))
            hub.shown(explained("a", 0))
        else:
            hub.picture(picture("b"))

    first = [("window", 1), ("picture", 0), ("status", 0), ("window", 0)]
    assert followed(act, 2) == [first, [("picture", 1)]]


def test_who_wants_one_stream_gets_that_alone():
    def act(hub, turn):
        hub.status(status("a"))
        hub.picture(picture("a"))
        hub.picture(picture("b"))
        hub.shown(explained("b", turn))

    options = {"kinds": ("window", "picture"), "stream": 1}
    assert followed(act, 2, **options) == [[("picture", 1), ("window", 1)]] * 2


def test_alarms_are_given_as_one_list_of_bounded_length():
    async def run():
        hub = Hub(["a"])
        hub.attach(asyncio.get_running_loop())
        for number in range(70):
            hub.alarm({"number": number})
        entries = await anext(hub.follow())
        return entries[0].value

    alarms = asyncio.run(run())
    assert [alarm["number"] for alarm in alarms] == list(range(20, 70))


def test_the_shown_class_follows_every_window_whoever_looks():
    hub = Hub(["a"])
    tops = [(("x", 0.5), ("y", 0.4))] + [(("y", 0.5), ("x", 0.4))] * 3
    for window, top in enumerate(tops):
        hub.shown(explained("a", window, top=top))
    assert hub._latest["window", 0].shown.label == "y"


def test_a_message_is_encoded_once_and_its_age_told_each_time():
    hub = Hub(["a"])
    hub.shown(explained("a", age_s=1.0))
    hub.picture(picture("a"))
    window, image = hub._latest["window", 0], hub._latest["picture", 0]
    first, first_image = window.message(), image.message()
    assert json.loads(first)["age_s"] >= 1
    # Values that change afterwards are what an encoder would see if it were asked again.
    window.value.spatial[:] = 1
    image.value.image[:] = 0
    # Until the age has another millisecond.
    second = until(lambda: (told := window.message()) != first and told)
    assert json.loads(second)["age_s"] > json.loads(first)["age_s"]
    assert first.partition(",")[2] == second.partition(",")[2]
    assert image.message() is first_image


def test_followers_end_with_the_hub_and_values_from_many_threads_all_count():
    n_threads, n_each = 4, 200

    async def run():
        hub = Hub(["a"])
        hub.attach(asyncio.get_running_loop())
        seen = []

        async def follow():
            async for entries in hub.follow():
                seen.extend(entry.version for entry in entries)

        following = [asyncio.create_task(follow()) for _ in range(3)]
        threads = [
            threading.Thread(target=lambda: [hub.status(status("a")) for _ in range(n_each)])
            for _ in range(n_threads)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            await asyncio.sleep(0.005)
        while seen.count(n_threads * n_each) < 3:
            await asyncio.sleep(0.005)
        hub.close()
        await asyncio.wait_for(asyncio.gather(*following), 10)

    asyncio.run(run())


def test_after_the_loop_has_ended_the_engine_may_go_on():
    hub = Hub(["a"])

    async def attach():
        hub.attach(asyncio.get_running_loop())

    asyncio.run(attach())
    hub.status(status("a"))
    hub.close()


def test_a_stream_that_is_not_there_is_named():
    hub = Hub(["a"])
    for put in (lambda: hub.shown(explained("z")), lambda: hub.picture(picture("z"))):
        with pytest.raises(ValueError, match="no stream is named 'z'"):
            put()
