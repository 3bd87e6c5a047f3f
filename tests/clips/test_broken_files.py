"""Every kind of broken, odd or oddly named file: a row each, with the named status, and on it goes.

A clip that is ok has the very frames that were asked for: they carry their number.
"""

import os
import shutil
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.clips.fetch import fetch_clip
from pipeline.clips.loader import ClipLoader
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import View, Views
from pipeline.dataset.manifest import (
    FORMAT_VERSION,
    METADATA_KEYS,
    SCHEMA,
    read_manifest,
    write_manifest,
)
from pipeline.errors import ManifestError
from pipeline.execution.passes import execute
from pipeline.run.config import AttributeConfig
from pipeline.run.job import real_stages
from pipeline.status import DecodeError, Status
from pipeline.store.opening import open_store
from tests.support.checkpoints import save_timesformer
from tests.support.clips import (
    numbered_frames,
    patch_mp4,
    read_numbers,
    turn_mp4,
    write_audio,
    write_mp4,
)
from tests.support.runs import prepared
from tests.support.stand_ins import DECODE as STAND_IN

N_FRAMES, HEIGHT, WIDTH = 40, 96, 160
FRAMES = numbered_frames(N_FRAMES, height=HEIGHT, width=WIDTH)
WHOLE = Preprocessing(shortest_edge=HEIGHT, crop=(HEIGHT, WIDTH))
N_SAMPLES = 3

OK, MISSING, EMPTY, UNREADABLE = Status.OK, Status.MISSING, Status.EMPTY, Status.UNREADABLE
TRUNCATED, TOO_SHORT, CRASHED = Status.TRUNCATED, Status.TOO_SHORT, Status.CRASHED


def whole(path, **options):
    write_mp4(path, FRAMES, **options)


def whole_mp4(path):
    """Write an MP4 whatever its name says."""
    write_mp4(path.with_name("other.mp4"), FRAMES).rename(path)


def cut(path, percent, *, faststart=True):
    data = write_mp4(path, FRAMES, faststart=faststart).read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])


def without_moov(path):
    data = write_mp4(path, FRAMES).read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])


def half_zeros(path):
    """Leave a file as a download into reserved space does that was broken off."""
    data = write_mp4(path, FRAMES, faststart=True).read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(len(data) - half))


def without_duration(path):
    """Have a file say that it, its track and its frames last 0 s."""
    write_mp4(path, FRAMES, bf="0")
    for box, offset in ((b"stts", 12), (b"mdhd", 20), (b"mvhd", 20), (b"tkhd", 24)):
        patch_mp4(path, box, offset, bytes(4))


def with_index_beyond_the_file(path):
    patch_mp4(write_mp4(path, FRAMES), b"stco", 12, b"\x7f\xff\xff\xff")


def with_index_of_billions(path):
    patch_mp4(write_mp4(path, FRAMES), b"stts", 8, b"\x7f\xff\xff\xff")


def with_frames_of_days(path):
    """Have each frame last for 2**31 ticks; the decoder reserves memory for as many frames."""
    patch_mp4(write_mp4(path, FRAMES), b"stts", 12, b"\x7f\xff\xff\xff")


def with_times_of_others(path, offsets):
    """Give frames the presentation times of those that lie so far off, by their number modulo 4."""
    source = write_mp4(path.with_name("source.mkv"), FRAMES, codec="mpeg4", bf="0", g="10")
    with av.open(str(source)) as ordered, av.open(str(path), "w") as changed:
        stream = ordered.streams.video[0]
        copied = changed.add_stream_from_template(stream)
        packets = [packet for packet in ordered.demux(stream) if packet.pts is not None]
        times = [packet.pts + 200 for packet in packets]
        for number, packet in enumerate(packets):
            packet.pts = times[number + offsets.get(number % 4, 0)]
            packet.stream = copied
            changed.mux(packet)
    source.unlink()


of_unordered_times = partial(with_times_of_others, offsets={0: 2, 2: -2})
of_equal_times = partial(with_times_of_others, offsets={3: -1})


def of_varying_rate(path):
    times = np.cumsum(np.random.default_rng(0).integers(8, 120, N_FRAMES)).tolist()
    write_mp4(path, FRAMES, times=times)


def as_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clip.mp4", write_mp4(path.with_name("inner.mp4"), FRAMES).read_bytes())
    path.with_name("inner.mp4").unlink()


def as_picture(path):
    shutil.move(
        write_mp4(path.with_name("one.png"), FRAMES[:1], codec="png", pix_fmt="rgb24"), path
    )


def link_to(target):
    def write(path):
        path.symlink_to(target)

    return write


def no_permission(path):
    whole(path)
    path.chmod(0)


def size_of(height, width, **options):
    def write(path):
        write_mp4(path, numbered_frames(N_FRAMES, height=height, width=width), **options)

    return write


_X265 = {"codec": "libx265", "x265-params": "log-level=none"}

FILES = {
    # What isn't there, or isn't a file.
    "missing.mp4": (lambda path: None, MISSING),
    "file.txt/below.mp4": (lambda path: path.parent.write_text("a file"), MISSING),
    "link to nothing.mp4": (link_to("nowhere.mp4"), MISSING),
    "link to itself.mp4": (link_to("link to itself.mp4"), UNREADABLE),
    "directory.mp4": (Path.mkdir, UNREADABLE),
    "n" * 300 + ".mp4": (lambda path: None, UNREADABLE),
    # Not a video.
    "zero bytes.mp4": (Path.touch, EMPTY),
    "text.mp4": (lambda path: path.write_text("not a video\n"), UNREADABLE),
    "error page.mp4": (lambda path: path.write_text("<html>404 Not Found</html>"), UNREADABLE),
    "random.mp4": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(9999)), UNREADABLE),
    "zeros.mp4": (lambda path: path.write_bytes(bytes(9999)), UNREADABLE),
    "archive.mp4": (as_archive, UNREADABLE),
    "picture.mp4": (as_picture, UNREADABLE),
    "audio only.mp4": (write_audio, UNREADABLE),
    # Damaged.
    "10 percent.mp4": (partial(cut, percent=10), TRUNCATED),
    "50 percent.mp4": (partial(cut, percent=50), TRUNCATED),
    "90 percent.mp4": (partial(cut, percent=90), TRUNCATED),
    "90 percent, index last.mp4": (partial(cut, percent=90, faststart=False), TRUNCATED),
    "half zeros.mp4": (half_zeros, TRUNCATED),
    "no moov.mp4": (without_moov, UNREADABLE),
    "index beyond the file.mp4": (with_index_beyond_the_file, UNREADABLE),
    "index of billions.mp4": (with_index_of_billions, UNREADABLE),
    # Too little.
    "one frame.mp4": (lambda path: write_mp4(path, FRAMES[:1]), TOO_SHORT),
    "two frames.mp4": (lambda path: write_mp4(path, FRAMES[:2]), TOO_SHORT),
    "three frames.mp4": (lambda path: write_mp4(path, FRAMES[:3]), OK),
    # Whole, and unusual.
    "zero duration.mp4": (without_duration, OK),
    "frames of days.mp4": (with_frames_of_days, OK),
    "transport stream.ts": (whole, OK),
    "odd size.mp4": (size_of(95, 161, pix_fmt="yuv444p"), OK),
    "odd size.webm": (size_of(95, 161, codec="libvpx-vp9"), OK),
    "large.mp4": (size_of(1080, 1920, preset="ultrafast"), OK),
    "rotated.mp4": (lambda path: turn_mp4(write_mp4(path, FRAMES)), OK),
    "variable rate.mp4": (of_varying_rate, OK),
    "variable rate.mkv": (of_varying_rate, OK),
    "equal times.mkv": (of_equal_times, OK),
    "unordered times.mkv": (of_unordered_times, OK),
    "unordered times.mp4": (of_unordered_times, OK),
    "10 bit.mp4": (partial(whole, pix_fmt="yuv420p10le"), OK),
    "10 bit hevc.mp4": (partial(whole, pix_fmt="yuv420p10le", **_X265), OK),
    "hevc.mp4": (partial(whole, **_X265), OK),
    "av1.mp4": (partial(whole, codec="libsvtav1"), OK),
    "vp9.webm": (partial(whole, codec="libvpx-vp9"), OK),
    "prores.mov": (partial(whole, codec="prores_ks", pix_fmt="yuv422p10le"), OK),
    "mpeg4.avi": (partial(whole, codec="mpeg4"), OK),
    # Names.
    "wrong extension.txt": (whole_mp4, OK),
    "no extension": (whole_mp4, OK),
    " spaces  in a name .mp4": (whole, OK),
    "quotes '\" ` \\'.mp4": (whole, OK),
    "ünïcödé 视频 🎬.mp4": (whole, OK),
    "new\nline.mp4": (whole, OK),
    "two..dots...mp4": (whole, OK),
    "?query=1&a#fragment%20*[0].mp4": (whole, OK),
    "a::b://c.mp4": (whole, OK),
    "-rf.mp4": (whole, OK),
    "folder/of a/clip.mp4": (whole, OK),
    "link to a clip.mp4": (link_to("no extension"), OK),
}
"""How each file is made, and the status that it must get."""

UNCHECKED = {"rotated.mp4", "unordered times.mkv", "unordered times.mp4", "large.mp4"}
"""Ok, but numbers can't be read in the model's frames, or times are no order: see their tests."""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """Folder with every file."""
    folder = tmp_path_factory.mktemp("catalogue")
    for name, (write, _) in FILES.items():
        path = folder / name
        if len(name) < 255 and "file.txt" not in name:
            path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    return folder


def load(folder, names, preprocessing=WHOLE, **changes):
    settings = {
        "views": Views((View(Sampling("uniform", N_SAMPLES), preprocessing),)),
        "input_size": WHOLE.crop,
    }
    loader = ClipLoader(root=str(folder), class_of_label={}, **(settings | changes))
    n_clips = len(names)
    return loader(
        {
            "row": np.arange(n_clips),
            "video_id": np.array(names, object),
            "path": np.array(names, object),
            "label": np.full(n_clips, None),
            "start_time": np.zeros(n_clips),
        }
    )


@pytest.fixture(scope="module")
def loaded(catalogue):
    """Columns of one batch that holds every file."""
    return load(catalogue, list(FILES))


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_a_row_with_its_status(loaded, name):
    row = list(FILES).index(name)
    expected = FILES[name][1]
    message = loaded["message"][row]
    assert (Status(loaded["status"][row]), bool(message)) == (expected, expected is not OK), message
    if expected is OK:
        frame_index = loaded["frame_index"][row]
        assert (np.diff(frame_index) > 0).all()
        if name not in UNCHECKED:
            assert read_numbers(loaded["frames"][row]) == frame_index.tolist()
    else:
        assert not loaded["frames"][row].any()
        assert (loaded["frame_index"][row] == -1).all()


def test_frames_without_order_are_no_frames_twice_and_always_the_same(catalogue, loaded):
    for name in ("unordered times.mkv", "unordered times.mp4"):
        row = list(FILES).index(name)
        again = load(catalogue, [name] * 20)["frames"]
        assert (again == loaded["frames"][row]).all()
        numbers = read_numbers(loaded["frames"][row])
        assert numbers == sorted(set(numbers))
        # Where times contradict the order, players don't agree on which frame comes when.
        np.testing.assert_allclose(numbers, loaded["frame_index"][row], atol=3)


def test_turned_frames_and_frames_of_another_size_are_the_right_ones_too(catalogue):
    columns = load(
        catalogue,
        ["rotated.mp4"],
        preprocessing=Preprocessing(shortest_edge=None, crop=None),
        input_size=(WIDTH, HEIGHT),
    )
    upright = np.rot90(columns["frames"][0], axes=(1, 2))
    assert read_numbers(upright) == columns["frame_index"][0].tolist()
    columns = load(
        catalogue,
        ["large.mp4"],
        preprocessing=Preprocessing(shortest_edge=None, resize=(HEIGHT, WIDTH), crop=None),
    )
    assert read_numbers(columns["frames"][0]) == columns["frame_index"][0].tolist()


def test_a_file_that_may_not_be_read_is_unreadable():
    """Root may read everything, so the test asks as someone else where it is root."""
    # Not tmp_path: pytest's folders are closed to others.
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        no_permission(Path(folder) / "clip.mp4")
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(DecodeError) as caught:
                fetch_clip(folder, "clip.mp4")
        finally:
            os.seteuid(user)
        assert caught.value.status is UNREADABLE
        assert caught.value.message == f"no permission to read {folder}/clip.mp4"


def write_run(folder, root, names):
    """Write a manifest of ``names``, and a model of 3 frames of 32x32."""
    columns = {"video_id": names, "path": names}
    nothing = [None] * len(names)
    metadata = dict(zip(METADATA_KEYS, (FORMAT_VERSION, str(root), "files"), strict=True))
    table = pa.table(
        [columns.get(field.name, nothing) for field in SCHEMA], schema=SCHEMA
    ).replace_schema_metadata(metadata)
    write_manifest(table, str(folder / "manifest.parquet"))
    save_timesformer(folder / "model")
    return AttributeConfig(
        manifest=str(folder / "manifest.parquet"),
        model=str(folder / "model"),
        out=str(folder / "run"),
        sampling={"kind": "uniform"},
        batch_size=8,
        rows_per_shard=16,
        n_models=1,
        decode_timeout="8s",
    )


def test_a_path_that_leaves_the_root_is_refused_before_anything_starts(tmp_path):
    for path in ("../clip.mp4", "a/../../clip.mp4", "/etc/passwd", "..\\clip.mp4", "a/.."):
        write_run(tmp_path, tmp_path, ["clip.mp4", path])
        with pytest.raises(ManifestError, match="expected a path below the root"):
            read_manifest(str(tmp_path / "manifest.parquet"))


@pytest.mark.slow
def test_a_run_over_all_of_them_accounts_for_every_row(local_ray, catalogue, tmp_path):
    hangs, forbidden = catalogue / "hangs.mp4", catalogue / "forbidden.mp4"
    hangs.write_bytes(b"STAND-IN hang")
    no_permission(forbidden)
    expected = {name: status for name, (_, status) in FILES.items()} | {
        hangs.name: Status.TIMEOUT,
        # Also root may be bound by permissions, in a container.
        forbidden.name: OK if os.access(forbidden, os.R_OK) else UNREADABLE,
    }
    # Shards mix what fails with what doesn't.
    names = [list(expected)[i] for i in np.random.default_rng(0).permutation(len(expected))]
    plan = prepared(write_run(tmp_path, catalogue, names))

    def stages_of(*arguments):
        stages = real_stages(*arguments)
        return replace(stages, load=replace(stages.load, decode=STAND_IN))

    summary = execute(plan, stages_of=stages_of)

    group = open_store(plan.store_url)
    got = {name: Status(code) for name, code in zip(names, group.array("status")[:], strict=True)}
    assert got == expected
    assert summary.n_pending == 0
    assert group.array("video_id")[:].tolist() == names
    ok = np.array([expected[name] is OK for name in names])
    assert np.isfinite(group.array("temporal")[:][ok]).all()
    assert np.isnan(group.array("temporal")[:][~ok]).all()
    assert (np.diff(group.array("frame_index")[:][ok], axis=1) > 0).all()
    failures = pq.read_table(tmp_path / "run" / "failures.parquet").to_pylist()
    assert {row["path"]: row["status"] for row in failures} == {
        name: status.label for name, status in expected.items() if status is not OK
    }
    assert all(row["message"] for row in failures)
