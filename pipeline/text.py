"""Text that may be shown and stored: on one line, harmless to a terminal, without credentials."""

import re

LINE_LENGTH = 300
"""Characters of an error's line at the most."""

_UNPRINTABLE = re.compile(
    # Controls (C0, C1, delete), separators of lines, marks of direction, halves of surrogates: a
    # name that has them could clear a screen, forge a line, or show itself backwards.
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_SIGNATURES = (
    # Of AWS (version 4 and 2), Google and Azure.
    *("x-amz-signature", "x-amz-credential", "x-amz-security-token"),
    *("awsaccesskeyid", "signature", "x-goog-signature", "x-goog-credential", "googleaccessid"),
    *("sas_token", "access_token"),
)
"""Parameters that are nothing else, wherever they stand."""
_WORDS = ("sig", "token", "key", "secret", "password")
"""Parameters of whoever signs in a way of their own; files are called ``a?key=5.mp4``, too."""
_SUFFIXES = (
    "3gp|avi|flv|m2ts|m4v|mkv|mov|mp4|mpe?g|mts|ogv|ts|webm|wmv|parquet|[ct]sv|json|txt|ya?ml|zarr"
)
_USER = re.compile(r"(?<![\w+.:-])([\w+.:-]*://)[^/@\s'\"]*@")
_PARAMETER = re.compile(
    rf"([?&](?:{'|'.join(_SIGNATURES)})=)[^&#\s'\"]+"
    # A value that ends in a file's suffix is the end of a name.
    rf"|([?&](?:{'|'.join(_WORDS)})=)(?![^&#\s'\"]*\.(?:{_SUFFIXES})(?![\w.-]))[^&#\s'\"]+",
    re.IGNORECASE,
)


def printable(text: str) -> str:
    """Tell each unprintable character by its number, as in Python's own texts."""
    return _UNPRINTABLE.sub(_escaped, text)


def one_line(text: str, *, at_most: int = LINE_LENGTH) -> str:
    """Put a text on one line; of a long one the middle goes.

    What was expected stands at the end of a message, and what is meant at its start.
    """
    line = printable(" ".join(part.strip() for part in text.splitlines() if part.strip()))
    if len(line) <= at_most:
        return line
    mark = " ... "
    n_end = (at_most - len(mark)) // 2
    return line[: at_most - len(mark) - n_end] + mark + line[-n_end:]


def holds_credentials(url: str) -> bool:
    """Whether a URL has a user or password before its host, or a signature in its query.

    A path without a protocol has no query: there, only what is nothing but a signature counts.
    """
    found = _PARAMETER.search(url)
    return bool(_USER.match(url) or (found and (found[1] or "://" in url)))


def without_credentials(text: str) -> str:
    """Blot out what `holds_credentials` finds, in every URL of a message."""
    return _PARAMETER.sub(r"\1\2***", _USER.sub(r"\1***@", text))


def _escaped(found: "re.Match[str]") -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
