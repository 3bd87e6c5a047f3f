"""Storage as it is: which filesystem a URL means, what is tried again and how long.

Drivers try again for some seconds (botocore five times, as ``AWS_MAX_ATTEMPTS`` says). Stores
throttle and fail for longer, and no driver does so for all errors: s3fs gives up on a refused
connection at once. So every access goes through `with_retries`, or `RetryingStore` for Zarr.

An error either *lasts*, as does a missing object or a lack of permission, and is raised as it is;
or it may be gone at the next try. Errors are of several drivers' own classes and grow with them, so
it is the lasting ones that are listed: anything else is tried again, with exponential backoff and
full jitter, for `patience_s`, and then becomes a `StorageError`. Where an error carries the status
of an HTTP answer, the status decides: fsspec's http driver says `FileNotFoundError` whatever the
server answered.
"""

import errno
import logging
import math
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from pipeline.errors import ConfigError, CredentialsError, StaaError, StorageError, reason_of
from pipeline.text import without_credentials

PATIENCE_VARIABLE = "STAA_STORAGE_PATIENCE_S"
"""Environment variable that says how long a failing access is tried again, s; 60 by default."""

_FIRST_WAIT_S = 0.4
_LONGEST_WAIT_S = 10.0
_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")
_LASTING = (
    *(FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError),
    # Faults of a call, a URL or an installation.
    *(ImportError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError),
    *(StaaError, StorageError),
    # Of this process: no storage is at fault.
    MemoryError,
)

_LASTING_CODES = {
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOSYS),
    *(errno.EFBIG, errno.ENOSPC),
    *(errno.EDQUOT, errno.EROFS, errno.ENOTEMPTY, getattr(errno, "EREMCHG", 0)),
}

_DAMAGED_ON_THE_WAY = {"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
"""S3's codes of requests that arrived damaged; s3fs gives them the errno of a wrong request."""

_CREDENTIALS = {
    # S3's codes
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"),
    *("SignatureDoesNotMatch", "RequestTimeTooSkewed", "AuthorizationHeaderMalformed"),
    # Exceptions of botocore, google-auth and azure-identity
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
    *("ProfileNotFound", "TokenRetrievalError", "SSOError"),
    *("DefaultCredentialsError", "RefreshError", "ClientAuthenticationError"),
    # A server whose certificate isn't trusted is not asked, whichever object is meant.
    *("SSLCertVerificationError", "ClientConnectorCertificateError"),
}
"""Codes and exceptions that say nothing about one object: the access as a whole is refused."""

_NO_ANSWER = {"ClientConnectionError", "ClientPayloadError", "ConnectionError", "TimeoutError"}
"""Exceptions that fsspec's http driver hides behind a `FileNotFoundError`, beside a status."""

_PASSING_STATUSES = {408, 425, 429}
"""HTTP statuses below 500 after which the same request may succeed."""


def with_retries(where: str, access: Callable[[], _T]) -> _T:
    """Access a storage, and again while it fails in a way that may pass.

    Parameters
    ----------
    where
        What is accessed, for messages.
    access
        Called until it succeeds, so doing it twice must be the same as doing it once.

    Raises
    ------
    StorageError
        If it failed for longer than `patience_s`.
    CredentialsError
        If the storage doesn't know the credentials, or there are none.
    OSError
        Any that lasts, as the driver raised it.
    """
    try:
        return Retrying(**_policy(where))(access)
    except Exception as error:
        _raise_explained(where, error)
        raise


async def with_retries_async(where: str, access: Callable[[], Awaitable[_T]]) -> _T:
    """Access a storage by a coroutine; tries again and raises as `with_retries` does."""

    # What isn't declared to be a coroutine function isn't awaited.
    async def awaited() -> _T:
        return await access()

    try:
        return await AsyncRetrying(**_policy(where))(awaited)
    except Exception as error:
        _raise_explained(where, error)
        raise


def patience_s() -> float:
    """How long a failing access is tried again, s.

    Raises
    ------
    ConfigError
        If the environment variable holds no time.
    """
    text = os.environ.get(PATIENCE_VARIABLE, "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise ConfigError(
            f"{PATIENCE_VARIABLE}: {text[:40]!r} is no time; expected seconds, for example 60"
        )
    return seconds


def is_transient(error: BaseException) -> bool:
    """Whether the same access may succeed a little later."""
    error = _behind(error)
    names = _names(error)
    if names & _CREDENTIALS:
        return False
    if names & _DAMAGED_ON_THE_WAY:
        return True
    status = http_status(error)
    if status is not None:
        return status >= 500 or status in _PASSING_STATUSES
    if isinstance(error, OSError) and error.errno in _LASTING_CODES:
        return False
    return isinstance(error, Exception) and not isinstance(error, _LASTING)


def http_status(error: BaseException) -> int | None:
    """Status of the HTTP answer that an error was made of, 400 to 599; None if it tells none.

    aiohttp's errors call it ``status``, Azure's ``status_code``, those of Google's storage
    ``code``.
    """
    for name in ("status", "status_code", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int) and 400 <= status <= 599:
            return int(status)
    # gcsfs makes a plain OSError of this status alone.
    if type(error) is OSError and re.match("Forbidden: ", str(error)):
        return 403
    return None


def _behind(error: BaseException) -> BaseException:
    """Error that says why: behind one without words, or of an object that isn't there."""
    cause = error.__cause__
    if isinstance(error, TimeoutError) and cause is not None and not str(error):
        return cause
    if isinstance(error, FileNotFoundError) and cause is not None:
        names = {base.__name__ for base in type(cause).__mro__}
        if http_status(cause) is not None or names & _NO_ANSWER:
            return cause
    return error


def _policy(where: str) -> dict[str, Any]:
    def log(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            _LOGGER.warning("%s; trying again", _failure(where, error))

    return {
        "retry": retry_if_exception(is_transient),
        # Full jitter: workers that were refused together don't come back together.
        "wait": wait_random_exponential(_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
        "stop": stop_after_delay(patience_s()),
        "before_sleep": log,
        "reraise": True,
    }


def _raise_explained(where: str, error: Exception) -> None:
    """Raise our own error in place of a driver's, if this one doesn't say enough."""
    behind = _behind(error)
    status = http_status(behind)
    if _names(behind) & _CREDENTIALS or status in (401, 407):
        raise CredentialsError(_failure(where, behind)) from error
    if is_transient(error):
        raise StorageError(_failure(where, behind)) from error
    if status in (404, 410):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where) from error
    if status == 403:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), where) from error
    if status is not None:
        raise OSError(errno.EBADMSG, f"the server answers {status}", where) from error


def _failure(where: str, error: BaseException) -> str:
    error = _behind(error)
    reason = reason_of(error) if isinstance(error, Exception) else type(error).__name__
    return without_credentials(f"{where}: {reason}")


def _names(error: BaseException) -> set[str]:
    """Class names of an error, and the storage's codes of it and of its cause."""
    names = {base.__name__ for base in type(error).__mro__}
    for part in (error, error.__cause__):
        response = getattr(part, "response", None)
        if isinstance(response, dict):
            names.add(str(response.get("Error", {}).get("Code")))
    return names
