"""The base of every configuration: immutable, validated, and free of credentials."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from pipeline.text import holds_credentials

_SECONDS = {"": 1, "ms": 1e-3, "s": 1, "min": 60, "h": 3600}


def _seconds(value: Any) -> Any:
    """Convert a text such as 30s or 2min to seconds; anything else is left to pydantic."""
    if not isinstance(value, str):
        return value
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|h|)\s*", value)
    if not parts:
        raise ValueError(
            f"{value!r} is not a time; expected a number of ms, s, min or h, such as 30s"
        )
    return float(parts[1]) * _SECONDS[parts[2]]


Seconds = Annotated[float, BeforeValidator(_seconds)]
"""Time in seconds; may be given as text with a unit."""


_ROOT = re.compile(r"([\w+.-]+:)?/[/.]*")
"""The root of a file system, however it is written, or a storage's URL without a bucket."""


def _with_home(value: Any) -> Any:
    """Replace ``~`` by the home folder at a text's start, and behind ``name=`` in a list."""
    if isinstance(value, dict):
        return {key: _with_home(item) for key, item in value.items()}
    if not isinstance(value, str) or "~" not in value:
        return value
    home = str(Path.home())
    # A Path would merge the slashes of a URL, and refuse the home of an unknown user.
    expanded = os.path.expanduser(value)  # noqa: PTH111
    return re.sub(r"(?<==)~(?=/|,|$)", lambda _: home, expanded)


class FrozenConfig(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    named_by: ClassVar[str] = ""
    """Key of a group of options whose value may be given in its place, as ``method: rollout``."""

    @classmethod
    def spelled_out(cls, given: Any) -> Any:
        """Give a text that stands for a group as the group; anything else as it is."""
        return {cls.named_by: given} if cls.named_by and isinstance(given, str) else given

    @model_validator(mode="before")
    @classmethod
    def _home_is_a_folder(cls, values: Any) -> Any:
        """Expand ``~``, which a shell leaves alone behind a flag's ``=`` and in files."""
        if not isinstance(values, dict):
            return values
        return {key: _with_home(value) for key, value in values.items()}

    @model_validator(mode="after")
    def _texts_can_be_recorded(self) -> Self:
        for key, text in self._texts():
            if not text:
                raise ValueError(f"{key}: is empty")
            if key == "out" and _ROOT.fullmatch(text):
                raise ValueError(
                    f"out: {text[:40]} is the root of a file system; expected something below it"
                )
            # A configuration is recorded in the store and shown in reports.
            if holds_credentials(text):
                raise ValueError(
                    f"{key}: the URL holds credentials or a signature, which belong in the "
                    "environment or fsspec's configuration"
                )
        return self

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Yield every text with its key, including those in tables."""
        for name, value in self:
            if isinstance(value, str):
                yield name, value
            elif isinstance(value, dict):
                yield from ((f"{name}.{key}", str(item)) for key, item in value.items())
