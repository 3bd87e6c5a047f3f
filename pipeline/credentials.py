"""Keeps credentials that stand in URLs out of configurations, stores, logs and messages."""

import re

_SIGNATURES = (
    # Of AWS (version 4 and 2), Google and Azure, and of whoever signs in a way of their own.
    *("x-amz-signature", "x-amz-credential", "x-amz-security-token"),
    *("awsaccesskeyid", "signature", "x-goog-signature", "x-goog-credential", "googleaccessid"),
    *("sig", "sas_token", "token", "access_token", "key", "secret", "password"),
)
_USER = re.compile(r"(?<![\w+.:-])([\w+.:-]*://)[^/@\s'\"]*@")
_PARAMETER = re.compile(rf"([?&](?:{'|'.join(_SIGNATURES)})=)[^&#\s'\"]+", re.IGNORECASE)


def holds_credentials(url: str) -> bool:
    """Whether a URL has a user or password before its host, or a signature in its query."""
    return bool(_USER.match(url) or _PARAMETER.search(url))


def without_credentials(text: str) -> str:
    """Blot out what `holds_credentials` finds, in every URL of a message."""
    return _PARAMETER.sub(r"\1***", _USER.sub(r"\1***@", text))
