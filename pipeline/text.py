"""Text that may be shown and stored: on one line, harmless to a terminal, without credentials."""

import re

LINE_LENGTH = 300
"""Most characters in an error's line."""

_UNPRINTABLE = re.compile(
    # Controls (C0, C1, delete), line separators, direction marks, surrogate halves: a name with
    # them could clear a screen, forge a line, or appear backwards.
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_SIGNATURES = (
    # Those of AWS (versions 4 and 2), Google and Azure.
    *("x-amz-signature", "x-amz-credential", "x-amz-security-token"),
    *("awsaccesskeyid", "signature", "x-goog-signature", "x-goog-credential", "googleaccessid"),
    *("sas_token", "access_token"),
)
"""Names of parameters that are always credentials, wherever they stand."""
_WORDS = ("sig", "token", "key", "secret", "password", "passwd", "pass", "pwd")
"""Names of parameters that other signing schemes use; a file may also be called ``a?key=5.mp4``."""
_SUFFIXES = (
    "3gp|avi|flv|m2ts|m4v|mkv|mov|mp4|mpe?g|mts|ogv|ts|webm|wmv|parquet|[ct]sv|json|txt|ya?ml|zarr"
)
_USER = re.compile(
    r"(?<![\w+.:-])([\w+.:-]*://)"
    # Of a camera to the last @: digits and a slash may begin its password, too.
    r"(?:(?:(?<=(?i:rtsp|rtmp)://)|(?<=(?i:rtsps|rtmps)://))(?:(?!://)[^\s'\"])*@|"
    # With a password to the last @ of the URL: one with a slash in it is against the rules, and is
    # still a password. What is behind the first colon is none where it may be a port.
    r"(?!\[)[^/@:\s'\"]*:(?!\d{0,5}(?:[/?#\s'\"]|$))(?:(?!://)[^\s'\"])*@"
    # Else to the last @ before a slash: a path may have more of them.
    r"|[^/\s'\"]*@)"
)
_PARAMETER = re.compile(
    rf"([?&](?:{'|'.join(_SIGNATURES)})=)[^&#\s'\"]+"
    # A value that ends in a file suffix is the end of a file's name.
    rf"|([?&](?:{'|'.join(_WORDS)})=)(?![^&#\s'\"]*\.(?:{_SUFFIXES})(?![\w.-]))[^&#\s'\"]+",
    re.IGNORECASE,
)


def printable(text: str) -> str:
    """Replace each unprintable character by its number, as Python's repr does."""
    return _UNPRINTABLE.sub(_escaped, text)


def one_line(text: str, *, at_most: int = LINE_LENGTH) -> str:
    """Put a text on one line, and cut the middle out of a long one.

    A message names its subject at the start, and what was expected at the end.
    """
    line = printable(" ".join(part.strip() for part in text.splitlines() if part.strip()))
    if len(line) <= at_most:
        return line
    mark = " ... "
    n_end = (at_most - len(mark)) // 2
    return line[: at_most - len(mark) - n_end] + mark + line[-n_end:]


def holds_credentials(url: str) -> bool:
    """Whether a URL has a user or password before its host, or a signature in its query.

    A path without a protocol has no query: there, only names that are always credentials count.
    """
    found = _PARAMETER.search(url)
    return bool(_USER.match(url) or (found and (found[1] or "://" in url)))


def without_credentials(text: str) -> str:
    """Mask what `holds_credentials` finds, in every URL of a message."""
    return _PARAMETER.sub(r"\1\2***", _USER.sub(r"\1***@", text))


def _escaped(found: "re.Match[str]") -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
