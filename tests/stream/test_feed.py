"""What a source gives is what `pipeline.clips.decode` reads of it; what it does has a name."""

import shutil
import threading
import time
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest

from pipeline.clips.decode import read_frames
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.stream.explained import SourceState
from pipeline.stream.feed import Backoff, Feed, Listener, small
from pipeline.stream.source import Source, SourceError, SourceFrame, parse_source
from pipeline.stream.windows import WindowPlan
from tests.support.clips import numbered_frames, write_mp4
from tests.support.processes import until
from tests.support.recordings import write_fragmented, write_kind
from tests.support.rtsp_server import camera

PREPROCESSING = Preprocessing(shortest_edge=32, crop=(32, 32))
SAMPLINGS = (
    Sampling("uniform", 4, clock="time"),
    Sampling("strided", 4, stride=4, clock="time"),
)
KINDS = (
    *("b_frames.mp4", "open_gop.mkv", "interlaced.ts", "h264_b_frames.avi"),
    *("vp8.webm", "mpeg2.mpg", "h264.h264"),
)


def plan_of(sampling=SAMPLINGS[0], window_s=16 / 30, hop_s=0.25):
    return WindowPlan(sampling, PREPROCESSING, (32, 32), window_s, hop_s)


class Kept:
    """All that a feed tells."""

    def __init__(self):
        self.windows, self.pictures, self.events = [], [], []

    def listener(self):
        return Listener(
            self.windows.append,
            self.pictures.append,
            lambda stream, kind, values: self.events.append((kind, values)),
        )


def read_through(source, plan, **options):
    kept = Kept()
    feed = Feed(source, plan, kept.listener(), paced=False, **options)
    feed.start()
    feed._thread.join(60)
    assert not feed._thread.is_alive()
    return kept, feed


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    times = np.cumsum([0, *[33, 33, 50, 17, 120, 33, 8] * 8])
    return {
        **{name: write_kind(folder, name) for name in KINDS},
        "fragmented": write_fragmented(folder / "fragmented.mp4"),
        "vfr": write_mp4(folder / "vfr.mp4", numbered_frames(57), 1000.0, times=times.tolist()),
    }


@pytest.mark.parametrize("name", [*KINDS, "fragmented", "vfr"])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["uniform", "strided"])
def test_windows_are_the_segments_of_the_file_bit_for_bit(recordings, name, sampling):
    path = recordings[name]
    kept, feed = read_through(parse_source(str(path)), plan_of(sampling))
    assert len(kept.windows) + feed.n_too_short >= 6
    for window in kept.windows:
        clip = read_frames(path.read_bytes(), sampling, PREPROCESSING, window.start_s, window.end_s)
        assert np.array_equal(clip.frames, np.stack(window.cut.frames))
        assert np.array_equal(clip.frame_index, window.cut.frame_index)
        assert np.array_equal(clip.frame_time, window.frame_time_s)
    assert feed.health.state(0.0)[0] is SourceState.ENDED


def test_pictures_are_few_and_small(recordings):
    kept, _ = read_through(parse_source(str(recordings["vfr"])), plan_of())
    assert 1 <= len(kept.pictures) < 57
    assert kept.pictures[0].image.shape == (96, 160, 3)
    assert small(np.zeros((720, 1280, 3), np.uint8)).shape == (180, 320, 3)


def test_a_paced_file_takes_as_long_as_it_plays(tmp_path):
    path = write_mp4(tmp_path / "second.mp4", numbered_frames(31), 30.0)
    kept = Kept()
    feed = Feed(parse_source(str(path)), plan_of(), kept.listener())
    begun = time.monotonic()
    feed.start()
    feed._thread.join(60)
    assert time.monotonic() - begun >= 0.95
    newest = [window.cut.newest_s for window in kept.windows]
    assert newest == sorted(newest)


class Scripted:
    """Frames that a source might give; stands in for a camera that isn't there."""

    rate = None
    fps = float("nan")
    is_finite = False
    n_damaged = 0

    def __init__(self, tick_s, frames, ending=None):
        self.tick_s, self._frames, self._ending = tick_s, frames, ending

    def frames(self):
        yield from self._frames
        if self._ending:
            raise SourceError(self._ending)


def frames(first_ms, n_frames, size=(32, 32), step_ms=50):
    rng = np.random.default_rng(first_ms)
    return [
        SourceFrame(first_ms + step_ms * number, None, rng.integers(0, 256, (*size, 3), np.uint8))
        for number in range(n_frames)
    ]


def scripted(openings):
    """Run a feed whose source opens so; a text is why it can't be."""
    left = list(openings)

    @contextmanager
    def opened(source):
        if not left:
            feed.stop.set()
            raise SourceError("over")
        opening = left.pop(0)
        if isinstance(opening, str):
            raise SourceError(opening)
        yield Scripted(Fraction(1, 1000), *opening)

    kept = Kept()
    feed = Feed(
        Source("cam", "rtsp://cam"),
        plan_of(window_s=0.5, hop_s=0.25),
        kept.listener(),
        backoff=Backoff(0.001, 0.002),
        open_source=opened,
    )
    feed.start()
    feed._thread.join(20)
    assert not feed._thread.is_alive()
    return kept, feed


def test_a_source_that_breaks_off_is_opened_again_and_its_clock_goes_on():
    openings = [(frames(0, 40), "reset by peer"), "refused", "refused", (frames(9000, 40),)]
    kept, _ = scripted(openings)
    assert [kind for kind, _ in kept.events][:4] == ["lost", "lost", "lost", "back"]
    assert kept.events[0][1]["reason"] == "reset by peer"
    numbers = [window.number for window in kept.windows]
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= 10
    # No window has frames from before and behind the break: frames are numbered through.
    for window in kept.windows:
        assert (window.cut.frame_index < 40).all() or (window.cut.frame_index >= 40).all()


@pytest.mark.parametrize("jump_ms", [-1500, 60_000], ids=["back", "ahead"])
def test_a_clock_that_jumps_is_an_event_and_parts_windows(jump_ms):
    kept, feed = scripted([(frames(0, 40) + frames(2000 + jump_ms, 40),)])
    jumps = [values["seconds"] for kind, values in kept.events if kind == "jump"]
    assert len(jumps) == 1
    assert np.sign(jumps[0]) == np.sign(jump_ms)
    assert feed.n_dropped == 0
    starts = [window.start_s for window in kept.windows]
    assert starts == sorted(starts)
    for window in kept.windows:
        assert (window.cut.frame_index < 40).all() or (window.cut.frame_index >= 40).all()


def test_frames_out_of_turn_are_left_out_and_counted():
    given = frames(0, 40)
    given.insert(20, given[18])
    given.insert(10, SourceFrame(None, None, given[0].image))
    kept, feed = scripted([(given,)])
    assert feed.n_dropped == 2
    assert not [k for k, _ in kept.events if k == "jump"]
    assert len(kept.windows) >= 5


def test_another_size_parts_windows_and_is_told():
    kept, feed = scripted([(frames(0, 40) + frames(2000, 40, size=(64, 48)),)])
    sizes = [values["reason"] for kind, values in kept.events if kind == "size"]
    assert sizes == ["frames are of 48x64 pixels from now on"]
    for window in kept.windows:
        assert (window.cut.frame_index < 40).all() or (window.cut.frame_index >= 40).all()
    assert feed.n_dropped == 0
    assert len(kept.windows) >= 12


def test_a_source_without_times_gets_those_of_arrival():
    timeless = [SourceFrame(None, None, frame.image) for frame in frames(0, 300)]
    kept, feed = scripted([(timeless,)])
    assert feed.n_dropped == 0
    assert feed.n_frames == 300
    for window in kept.windows:
        assert (np.diff(window.frame_time_s) > 0).all()


def test_waits_double_up_to_a_bound():
    backoff = Backoff(0.5, 30)
    assert [backoff.wait_s(n) for n in (0, 1, 2, 10, 10_000)] == [0.5, 1, 2, 30, 30]


def test_a_damaged_file_ends_with_a_name(recordings, tmp_path):
    path = tmp_path / "cut.mp4"
    shutil.copy(recordings["b_frames.mp4"], path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)
    _kept, feed = read_through(parse_source(str(path)), plan_of())
    state, reason = feed.health.state(0.0)
    assert state is SourceState.ENDED
    assert reason


def test_a_file_that_is_shorter_than_a_window_says_so(tmp_path):
    path = write_mp4(tmp_path / "short.mp4", numbered_frames(10), 30.0)
    for window_s, reason in (
        (0.5, "the source has come to its end before a window of 0.5 s was full"),
        (0.3, "the source has come to its end"),
    ):
        kept, feed = read_through(parse_source(str(path)), plan_of(window_s=window_s, hop_s=9.0))
        assert feed.health.state(0.0) == (SourceState.ENDED, reason)
        assert len(kept.windows) == (window_s == 0.3)


def test_over_http_a_file_is_played_and_ends(recordings, tmp_path):
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    # One that says how long it is: of another, an end is a break.
    name = "open_gop.mkv"
    handler = partial(Quiet, directory=str(recordings[name].parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        kept, _ = read_through(parse_source(f"a={url}"), plan_of())
        server.shutdown()
    local, _ = read_through(parse_source(str(recordings[name])), plan_of())
    assert len(kept.windows) == len(local.windows) >= 6
    for one, other in zip(kept.windows, local.windows, strict=True):
        assert np.array_equal(np.stack(one.cut.frames), np.stack(other.cut.frames))


def test_an_rtsp_camera_is_played_and_opened_again_when_it_hangs_up(recordings):
    path = recordings["interlaced.ts"]
    kept = Kept()
    with camera(path, 1.0, password="hunter2") as server:
        url = f"rtsp://eve:hunter2@127.0.0.1:{server.server_address[1]}/live"
        feed = Feed(Source("cam", url), plan_of(), kept.listener(), backoff=Backoff(0.01, 0.02))
        feed.start()
        until(
            lambda: any(kind == "back" for kind, _ in kept.events),
            seconds=60,
            told=lambda: (kept.events, feed.health.state(time.monotonic())),
        )
        feed.close(10)
    assert [kind for kind, _ in kept.events][:2] == ["lost", "back"]
    assert "hunter2" not in str(kept.events)
    local, _ = read_through(parse_source(str(path)), plan_of())
    played = {window.number: window for window in kept.windows}
    for window in local.windows[:4]:
        assert np.array_equal(
            np.stack(played[window.number].cut.frames), np.stack(window.cut.frames)
        )


def test_a_camera_that_refuses_is_lost_and_tried_again(recordings):
    kept = Kept()
    with camera(recordings["interlaced.ts"], 1.0, password="another") as server:
        url = f"rtsp://eve:hunter2@127.0.0.1:{server.server_address[1]}/live"
        feed = Feed(Source("cam", url), plan_of(), kept.listener(), backoff=Backoff(0.01, 0.02))
        feed.start()
        until(lambda: len(kept.events) >= 3, seconds=60)
        assert feed.health.state(time.monotonic())[0] is SourceState.LOST
        feed.close(10)
        assert server.n_played == 0
    assert "hunter2" not in str(kept.events)
