"""Which failures of a storage are tried again, for how long, and what is said in the end."""

import errno

import pytest

from pipeline.errors import ConfigError, CredentialsError, StorageError
from pipeline.storage.retries import (
    PATIENCE_VARIABLE,
    is_transient,
    patience_s,
    with_retries,
)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (OSError(errno.ENOSPC, "full"), False),
        (OSError(errno.EINVAL, "no such name"), False),
        (ValueError("a bug"), False),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(errno.EBUSY, "slow down"), True),
        (OSError("of a driver, without a number"), True),
        (RuntimeError("of a driver that isn't known here"), True),
        (MemoryError(), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_else(error, transient):
    assert is_transient(error) == transient


class AnswerError(OSError):
    """An error of a driver that was made of an HTTP answer."""

    def __init__(self, status):
        super().__init__("refused")
        self.status = status


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_an_answer_that_may_pass_is_tried_again(status):
    assert is_transient(AnswerError(status))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 412, 416])
def test_an_answer_that_lasts_is_not(status):
    assert not is_transient(AnswerError(status))


class Storage:
    """An access that fails some times before it succeeds."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.n_calls = 0

    def __call__(self):
        self.n_calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "data"


@pytest.fixture
def hasty(monkeypatch):
    """Waits that take no time; what is tried, and how often, is the same."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


def test_what_passes_is_tried_until_it_does(hasty, caplog):
    storage = Storage(ConnectionResetError(), TimeoutError(), OSError(errno.EBUSY, "slow down"))
    assert with_retries("s3://bucket/a", storage) == "data"
    assert storage.n_calls == 4
    assert [record.getMessage() for record in caplog.records] == [
        "s3://bucket/a: ConnectionResetError; trying again",
        "s3://bucket/a: TimeoutError; trying again",
        "s3://bucket/a: slow down; trying again",
    ]


@pytest.mark.parametrize("error", [FileNotFoundError("a"), PermissionError("b"), ValueError("c")])
def test_what_lasts_is_raised_as_it_is_at_once(hasty, error):
    storage = Storage(error)
    with pytest.raises(type(error)) as caught:
        with_retries("s3://bucket/a", storage)
    assert caught.value is error
    assert storage.n_calls == 1


def test_patience_ends_with_the_last_reason_and_no_credentials(hasty, monkeypatch):
    monkeypatch.setenv(PATIENCE_VARIABLE, "0")
    storage = Storage(*[ConnectionResetError("from https://me:secret@host/a")] * 3)
    with pytest.raises(StorageError, match="bucket/a: from https://") as caught:
        with_retries("https://me:secret@bucket/a", storage)
    assert "secret" not in str(caught.value)
    assert storage.n_calls == 1


class NoCredentialsError(Exception):
    """Of botocore by its name."""


def test_a_storage_that_does_not_know_us_is_not_asked_again(hasty):
    refused = OSError("denied")
    refused.response = {"Error": {"Code": "ExpiredToken"}}
    for error in (NoCredentialsError("none found"), refused):
        storage = Storage(error)
        with pytest.raises(CredentialsError, match="s3://bucket/a: "):
            with_retries("s3://bucket/a", storage)
        assert storage.n_calls == 1


def test_a_request_that_was_damaged_on_the_way_is_sent_again(hasty):
    damaged = OSError(errno.EINVAL, "bad digest")
    damaged.response = {"Error": {"Code": "BadDigest"}}
    assert with_retries("s3://bucket/a", Storage(damaged)) == "data"


def test_patience_is_a_number_of_the_environment(monkeypatch):
    monkeypatch.delenv(PATIENCE_VARIABLE)
    assert patience_s() == 60
    monkeypatch.setenv(PATIENCE_VARIABLE, "2.5")
    assert patience_s() == 2.5
    for text in ("long", "nan", "-1", "", "x" * 1000):
        monkeypatch.setenv(PATIENCE_VARIABLE, text)
        with pytest.raises(ConfigError, match=f"{PATIENCE_VARIABLE}: '{text[:9]}.*seconds"):
            patience_s()
