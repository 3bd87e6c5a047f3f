"""A container is known by its first bytes; what can open files or sockets is never handed on."""

import ctypes
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clips.containers import damaged_at, demuxer_of, lacking_bytes
from pipeline.clips.decode import read_frames
from pipeline.clips.sampling import Sampling
from pipeline.status import DecodeError, Status
from tests.support.recordings import KINDS, N_FRAMES, packets_of, write_kind, write_remuxed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recordings")


@pytest.mark.parametrize("name", KINDS)
def test_the_demuxer_is_the_one_that_libavformat_would_take(folder, name):
    data = write_kind(folder, name).read_bytes()
    with av.open(io.BytesIO(data)) as container:
        assert demuxer_of(data) in container.format.name.split(",")


@pytest.mark.parametrize("n_zeros", [1, 3, 40])
@pytest.mark.parametrize("name", ["h264.h264", "hevc.hevc"])
def test_zeros_may_stand_in_front_of_a_bare_stream(folder, name, n_zeros):
    data = bytes(n_zeros) + write_kind(folder, name).read_bytes()
    assert demuxer_of(data) == name.partition(".")[2]
    assert read_frames(data, Sampling("uniform", N_FRAMES)).n_frames == N_FRAMES


def test_zeros_alone_are_no_recording():
    assert demuxer_of(bytes(1000)) is None
    assert demuxer_of(bytes(63) + b"\1") is None


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_file_lacks_nothing_and_is_not_damaged(folder, name):
    data = write_kind(folder, name).read_bytes()
    demuxer = demuxer_of(data)
    assert lacking_bytes(data, demuxer) == 0
    assert damaged_at(data, demuxer) is None


@pytest.mark.parametrize(
    "rubbish", [b"TAG" + bytes(125), b"APETAGEX" + bytes(300), b"<html>" + 500 * b"x", b"\r\n"]
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
def test_what_lies_behind_a_whole_file_is_no_part_of_it(folder, suffix, rubbish):
    name = next(name for name in KINDS if name.endswith(suffix))
    data = write_kind(folder, name).read_bytes() + rubbish
    demuxer = demuxer_of(data)
    assert lacking_bytes(data, demuxer) == 0
    assert damaged_at(data, demuxer) is None


def opening_texts(target, port):
    """Files that FFmpeg would take for lists of files, descriptions of sessions, or playlists."""
    path, url = str(target), f"tcp://127.0.0.1:{port}"
    return {
        "ffconcat": f"ffconcat version 1.0\nfile '{path}'\n",
        "concat": f"# a list\nfile '{path}'\n",
        "sdp": (
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
            f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
        ),
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{path}\n#EXT-X-ENDLIST\n",
        "hls of a url": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n",
        "dash": (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet '
            'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>'
            f"{path}</BaseURL></Representation></AdaptationSet></Period></MPD>"
        ),
        "rtsp": f"[reference]\nRef1={url}\n",
        "asx": f'<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
        "pls": f"[playlist]\nFile1={path}\nNumberOfEntries=1\n",
        "xspf": f"<playlist><trackList><track><location>{path}</location></track></trackList>",
        "smil": f'<smil><body><video src="{path}"/></body></smil>',
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{path}"/></svg>',
        "imf": f'<?xml version="1.0"?><AssetMap><Path>{path}</Path></AssetMap>',
        "ffmetadata": ";FFMETADATA1\ntitle=x\n",
        "url": url,
        "path": path,
        "utf-16": f"\ufefffile '{path}'\n",
        "json": f'{{"file": "{path}"}}',
        "nothing but blanks": " \n" * 99,
    }


@pytest.mark.parametrize("name", opening_texts("/clip.mp4", 9))
def test_what_can_open_other_files_is_unreadable(name):
    text = opening_texts("/clip.mp4", 9)[name]
    for data in (text.encode(), ("\n" + text).encode(), text.encode("utf-16")):
        assert demuxer_of(data) is None
        with pytest.raises(DecodeError, match="any known kind of recording") as caught:
            read_frames(data, Sampling("uniform", 1))
        assert caught.value.status is Status.UNREADABLE


@given(st.binary(max_size=600) | st.text(max_size=600).map(str.encode))
def test_no_text_is_a_recording(data):
    demuxer = demuxer_of(data)
    if data[:64].isascii() and data[:64].decode().isprintable() and len(data) < 188:
        assert demuxer in (None, "mov", "avi", "flv", "ogg", "ivf", "gif", "yuv4mpegpipe")


# A program that may use no socket, nor run another, from a line on: the kernel kills it if it does.
SEALED = """
import ctypes, random, struct, sys
from pathlib import Path
from pipeline.clips.decode import read_frames
from pipeline.clips.sampling import Sampling
from pipeline.status import DecodeError

folder, number, breach = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
files = [path.read_bytes() for path in sorted(folder.iterdir())]
read_frames(files[0], Sampling("uniform", 4))

# seccomp(2): a filter over the system call's number that kills, else allows.
calls = {calls}
lines = [struct.pack("HBBI", 0x20, 0, 0, 0)]
lines += [struct.pack("HBBI", 0x15, len(calls) - n, 0, call) for n, call in enumerate(calls)]
lines += [struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000), struct.pack("HBBI", 0x06, 0, 0, 0x80000000)]
held = ctypes.create_string_buffer(b"".join(lines))
filters = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(held))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filters, 0, 0):
    sys.exit(77)
if breach == "socket":
    libc.socket(2, 1, 0)
elif breach:
    open(breach, "rb").close()
seed = random.Random(number)
statuses = set()
for data in files:
    for _ in range(8):
        mangled = bytearray(data)
        for _ in range(seed.randrange(0, 6)):
            at = seed.randrange(min(len(mangled), 4000))
            mangled[at : at + 8] = seed.randbytes(seed.randrange(1, 9))
        try:
            read_frames(bytes(mangled), Sampling("uniform", 4))
            statuses.add("OK")
        except DecodeError as error:
            statuses.add(error.status.name)
print(sorted(statuses), flush=True)
"""
CALLS = (41, 42, 49, 59)
"""socket, connect, bind and execve on x86-64."""
IN_OPEN, IN_NONBLOCK = 0x20, 0x800


def run_sealed(to_be_fuzzed, number, breach=""):
    """Run it: its exit code, its output, and names of what was opened in the targets' folder."""
    folder, targets = to_be_fuzzed
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(IN_NONBLOCK)
    if os.uname().machine != "x86_64" or libc.inotify_add_watch(watch, bytes(targets), IN_OPEN) < 0:
        pytest.skip("needs Linux on x86-64")
    run = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            SEALED.replace("{calls}", repr(CALLS)),
            folder,
            str(number),
            breach,
        ],
        cwd=targets,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    if run.returncode == 77:
        pytest.skip("this kernel takes no filters of system calls")
    try:
        # inotify(7): 16 bytes and a name that is padded with zeros.
        opened = set(re.findall(rb"[\w.]+(?=\0)", os.read(watch, 65536)[16:]))
    except BlockingIOError:
        opened = set()
    os.close(watch)
    return run.returncode, run.stdout + run.stderr, opened


@pytest.fixture(scope="module")
def to_be_fuzzed(folder, tmp_path_factory):
    """Folder of the files that are decoded, and of those that they name."""
    files, targets = tmp_path_factory.mktemp("fuzzed"), tmp_path_factory.mktemp("targets")
    whole = write_kind(folder, "b_frames.mp4").read_bytes()
    (files / "0.mp4").write_bytes(whole)
    (targets / "clip.mp4").write_bytes(whole)
    for name, text in opening_texts(targets / "clip.mp4", 9).items():
        (files / name.replace(" ", "_")).write_text(text)
    (files / "relative").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    for name in ("h264.ts", "pyramid.mkv", "vp9.webm", "mpeg4.avi", "mpeg2.mpg", "sorenson.flv"):
        (files / name).write_bytes(write_kind(folder, name).read_bytes())
    # An entry of an MP4's table of data that says that its frames are elsewhere (ISO/IEC 14496-12,
    # 8.7.2).
    reference = bytearray(whole)
    flags = reference.index(b"url ") + 4
    reference[flags : flags + 4] = bytes(4)
    (files / "reference.mp4").write_bytes(reference)
    return files, targets


def test_what_is_opened_would_be_seen(to_be_fuzzed):
    assert run_sealed(to_be_fuzzed, 0, "socket")[0] == -31  # SIGSYS
    assert b"clip.mp4" in run_sealed(to_be_fuzzed, 0, str(to_be_fuzzed[1] / "clip.mp4"))[2]


def test_whatever_the_bytes_are_nothing_is_opened(to_be_fuzzed):
    number = int.from_bytes(os.urandom(3), "big")
    print("seed", number)
    code, output, opened = run_sealed(to_be_fuzzed, number)
    assert code == 0, (number, output)
    assert b"clip.mp4" not in opened
    assert "'OK'" in output
    assert "'UNREADABLE'" in output


@pytest.mark.parametrize("name", ["pyramid.mkv", "vp9.webm", "mpeg2.mkv"])
def test_a_matroska_file_that_has_lost_frames_is_truncated(folder, name):
    path = write_kind(folder, name)
    data = bytearray(path.read_bytes())
    start, size, _ = packets_of(path)[N_FRAMES // 2]
    data[start - 8 : start + size] = b"\xff" * (size + 8)
    assert damaged_at(bytes(data), "matroska") is not None
    with pytest.raises(DecodeError, match="damaged at byte") as caught:
        read_frames(bytes(data), Sampling("uniform", 4))
    assert caught.value.status is Status.TRUNCATED


class Pipe:
    """A file that is written forward only."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += bytes(data)
        return len(data)


@pytest.mark.parametrize("format", ["avi", "matroska", "flv", "asf", "mpegts"])
def test_a_recording_that_was_written_to_a_pipe_is_whole(folder, format):
    pipe = Pipe()
    source = write_kind(folder, "sorenson.flv" if format == "flv" else "divx3.avi")
    if format == "mpegts":
        source = write_kind(folder, "mpeg2.ts")
    with av.open(str(source)) as read, av.open(pipe, "w", format=format) as written:
        stream = read.streams.video[0]
        copied = written.add_stream_from_template(stream)
        for number, packet in enumerate(read.demux(stream)):
            if packet.size:
                packet.pts = number if packet.pts is None else packet.pts
                packet.stream = copied
                written.mux(packet)
    clip = read_frames(pipe.data, Sampling("uniform", N_FRAMES))
    assert clip.n_frames == N_FRAMES


def test_a_live_recording_that_was_broken_off_is_what_there_is_of_it(folder, tmp_path):
    live = write_remuxed(write_kind(folder, "vp9.webm"), tmp_path / "live.webm", live="1")
    data = live.read_bytes()
    assert damaged_at(data, "matroska") is None
    cut = data[: len(data) * 2 // 3]
    clip = read_frames(cut, Sampling("uniform", 4))
    assert 20 < clip.n_frames < N_FRAMES
    assert np.diff(clip.frame_index).min() > 0
