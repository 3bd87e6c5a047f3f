"""What may be opened, and what is told of a URL."""

import ipaddress
import shutil
import ssl
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.errors import ConfigError
from pipeline.stream.source import Pace, Source, SourceError, opened, parse_source
from tests.support.clips import numbered_frames, pyav_frames, read_numbers, write_mp4
from tests.support.recordings import write_kind
from tests.support.rtsp_server import camera


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_mp4(tmp_path_factory.mktemp("source") / "clip.mp4", numbered_frames(20))


def test_frames_come_in_order_with_times_and_are_those_of_pyav(clip):
    with opened(parse_source(str(clip))) as source:
        frames = list(source.frames())
        assert source.fps == 30
        assert source.is_finite
    assert read_numbers(np.stack([frame.image for frame in frames])) == list(range(20))
    assert np.array_equal(np.stack([frame.image for frame in frames]), pyav_frames(clip))
    seconds = [frame.pts * float(source.tick_s) for frame in frames]
    assert np.allclose(np.diff(seconds), 1 / 30)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cam=ftp://host/x", "scheme 'ftp', expected one of rtsp"),
        ("concat://a.mp4|b.mp4", "scheme 'concat'"),
        ("file:///etc/passwd", "scheme 'file'"),
        ("cam=/nowhere/clip.mp4", "isn't there"),
        ("cam=/dev/null", "no device|first bytes|known kind"),
        ("cam=", "names nothing"),
        (f"cam={300 * 'a'}.mp4", "can't be read: File name too long"),
    ],
)
def test_what_may_not_be_opened_is_refused_by_name(text, reason):
    if "/dev/null" in text:
        # A character device that is no camera is found when it is opened.
        with pytest.raises(SourceError), opened(parse_source(text)):
            pass
        return
    with pytest.raises(ConfigError, match=reason):
        parse_source(text)


def test_a_text_that_lists_other_files_is_no_source(tmp_path):
    listed = tmp_path / "list.mp4"
    listed.write_text("ffconcat version 1.0\nfile /etc/hostname\n")
    with pytest.raises(ConfigError, match="first bytes"):
        parse_source(str(listed))


def test_names_come_from_what_is_given_or_from_the_file(clip):
    assert parse_source(f"door={clip}").name == "door"
    assert parse_source(str(clip)).name == "clip"
    assert parse_source("rtsp://cam/a=b").name == "a-b"
    # The name is shown everywhere.
    for url in ("rtsp://admin:secret@10.0.0.5", "rtsp://admin:secret@10.0.0.5:554/"):
        assert "secret" not in parse_source(url).name
    assert parse_source("http://u:pw@cam/live.mjpg?user=a&pwd=secret").name == "live"
    assert "secret" not in parse_source("http://cam/live.mjpg?user=a&pwd=secret").shown


def test_a_files_name_may_have_an_equals_sign(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, "take=1.mp4")
    for text, name in (("take=1.mp4", "take-1"), ("door=take=1.mp4", "door")):
        source = parse_source(text)
        assert (source.name, source.url) == (name, "take=1.mp4")
    # Where both can be meant, it is a name and a file.
    shutil.copy(clip, "1.mp4")
    source = parse_source("take=1.mp4")
    assert (source.name, source.url) == ("take", "1.mp4")


def test_credentials_are_read_from_the_environment_and_never_shown(monkeypatch):
    source = parse_source("cam=rtsp://${CAM_USER}:${CAM_PASSWORD}@host/1")
    monkeypatch.setenv("CAM_USER", "eve")
    with pytest.raises(SourceError, match="no CAM_PASSWORD"):
        source.resolved()
    monkeypatch.setenv("CAM_PASSWORD", "hunter2")
    assert source.resolved() == "rtsp://eve:hunter2@host/1"
    assert "hunter2" not in Source("cam", "rtsp://eve:hunter2@host/1").shown
    assert "hunter2" not in source.shown


def test_a_host_that_does_not_answer_is_told_without_credentials():
    with (
        pytest.raises(SourceError) as told,
        opened(Source("cam", "http://eve:hunter2@127.0.0.1:9/x.ts")),
    ):
        pass
    assert "hunter2" not in str(told.value)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that 127.0.0.1 has signed itself, with its key."""
    path = tmp_path_factory.mktemp("certificate") / "own.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "camera")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    own = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(own.public_bytes(serialization.Encoding.PEM) + private)
    return path


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def over_https(path, context):
    handler = partial(Quiet, directory=str(path.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}/{path.name}"
        server.shutdown()


@contextmanager
def over_rtsps(path, context):
    with camera(path, 1.0) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield f"rtsps://127.0.0.1:{server.server_address[1]}/live"


@pytest.mark.parametrize("served", [over_https, over_rtsps])
def test_a_certificate_is_checked(tmp_path, certificate, monkeypatch, served):
    path = write_kind(tmp_path, "interlaced.ts")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with served(path, context) as url:
        source = Source("cam", url)
        with pytest.raises(SourceError, match="SSL_CERT_FILE"), opened(source):
            pass
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with opened(source) as trusted:
            assert next(iter(trusted.frames())).image.shape == pyav_frames(path)[0].shape


def test_a_pace_waits_as_long_as_the_frames_are_apart():
    pace, stop = Pace(), threading.Event()
    begun = time.monotonic()
    for time_s in (5.0, 5.05, 5.1):
        pace.wait(time_s, stop)
    assert time.monotonic() - begun >= 0.1
    stop.set()
    # A wait that is cut off: the test would hang.
    pace.wait(1e6, stop)
