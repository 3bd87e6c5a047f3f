"""Keeps credentials that stand in URLs out of configurations, stores, logs and messages."""

import re

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


def holds_credentials(url: str) -> bool:
    """Whether a URL has a user or password before its host, or a signature in its query.

    A path without a protocol has no query: there, only what is nothing but a signature counts.
    """
    found = _PARAMETER.search(url)
    return bool(_USER.match(url) or (found and (found[1] or "://" in url)))


def without_credentials(text: str) -> str:
    """Blot out what `holds_credentials` finds, in every URL of a message."""
    return _PARAMETER.sub(r"\1\2***", _USER.sub(r"\1***@", text))
