"""Check what the files of a checkpoint say before anything is built from them.

A config may ask for a thousand million layers, and libraries would start building them. A processor
whose size, mean or deviation isn't a number fails much later, in the middle of a clip. So values
that can't be used are reported here, by file, key and value.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from pipeline.errors import ModelError

_MOST = {"layers": 300, "heads": 1_000, "frames": 10_000}
_MOST_OF_OTHERS = 100_000
_MOST_LABELS = 1_000_000
_MOST_PIXELS = 10_000
_MOST_EMBEDDED = 200_000_000
"""Tokens times width: 27 million in the largest published model. Some models build their table of
positions one number at a time."""


def read_json(path: Path, name: str) -> dict[str, Any]:
    """Read a checkpoint's JSON file, whose top level must be a table.

    Raises
    ------
    ModelError
        If the file isn't JSON, or isn't a table.
    """
    where = f"model: {name!r} can't be loaded: its {path.name}"
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where} is not a valid JSON file: {short(str(error))}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{where} is {short(content)}, expected a table")
    return content


def check_classes(content: Mapping[str, Any], name: str) -> None:
    """Refuse a config whose classes aren't numbers with names.

    Raises
    ------
    ModelError
        Names the key and its value.
    """
    where = f"model: config.json of {name!r}"
    n_labels = content.get("num_labels")
    if n_labels is not None and not _is_size(n_labels, _MOST_LABELS):
        raise ModelError(
            f"{where}: num_labels is {short(n_labels)}, expected 1 to {_MOST_LABELS:,}"
        )
    for key, of_numbers in (("id2label", True), ("label2id", False)):
        table = content.get(key)
        if table is None:
            continue
        if not isinstance(table, dict):
            raise ModelError(f"{where}: {key} is {short(table)}, expected a table")
        for left, right in table.items():
            number, label = (left, right) if of_numbers else (right, left)
            if not isinstance(label, str) or not re.fullmatch(r"-?\d{1,9}", str(number)):
                raise ModelError(
                    f"{where}: {key} has {short(left)}: {short(right)}, expected numbers of "
                    "classes and their names"
                )


_MAY_BE_0 = ("num_pooler_layers",)
"""Sizes that a model may lack: V-JEPA 2's pooler works without blocks before its query."""


def check_sizes(config: PretrainedConfig, name: str) -> None:
    """Refuse a config with an impossible size, or with something else in place of a number.

    Raises
    ------
    ModelError
        Names the key and its value.
    """
    defaults = type(config)().to_dict()
    for key, usual in defaults.items():
        value = getattr(config, key, usual)
        where = f"model: config.json of {name!r}: {key} is {short(value)}"
        if isinstance(usual, bool) or value is None or usual is None:
            continue
        if isinstance(usual, float):
            if not _is_number(value) or abs(value) > _MOST_OF_OTHERS:
                raise ModelError(f"{where}, expected a number as {usual}")
            continue
        sizes = usual if isinstance(usual, list | tuple) else [usual]
        if not all(_is_size(size, math.inf) for size in sizes):
            continue
        most = next((most for part, most in _MOST.items() if part in key), _MOST_OF_OTHERS)
        given = value if isinstance(value, list | tuple) else [value]
        least = 0 if key in _MAY_BE_0 else 1
        if least == 0 and type(value) is int and value == 0:
            continue
        if not given or not all(_is_size(size, most) for size in given):
            raise ModelError(
                f"{where}, expected a whole number from {least} to {most:,}, as {usual}"
            )
    # transformers' TimeSformer notices this only when the first clip is read.
    width, n_heads = (getattr(config, key, None) for key in ("hidden_size", "num_attention_heads"))
    if width and n_heads and width % n_heads:
        raise ModelError(
            f"model: config.json of {name!r}: num_attention_heads is {n_heads}, expected a divisor "
            f"of hidden_size, which is {width}"
        )


def check_tokens(n_tokens: int, config: PretrainedConfig, name: str) -> None:
    """Refuse a model whose tokens, times their width, are more than memory can hold.

    Raises
    ------
    ModelError
        Names the numbers.
    """
    width = int(getattr(config, "hidden_size", 1))
    if n_tokens < 1:
        raise ModelError(
            f"model: config.json of {name!r} gives no tokens: its frames are smaller than a tubelet"
        )
    if n_tokens * width > _MOST_EMBEDDED:
        raise ModelError(
            f"model: config.json of {name!r} gives {n_tokens:,} tokens of hidden_size {width:,}, "
            f"expected at most {_MOST_EMBEDDED:,} numbers"
        )


def check_processor(parameters: Mapping[str, Any], file: str, name: str) -> None:
    """Refuse a processor with a value that doesn't suit its key.

    Raises
    ------
    ModelError
        Names the key and its value.
    """
    for key, value in _processor_values(parameters):
        if value is None:
            continue
        expected = _unfit(key, value)
        if expected:
            raise ModelError(
                f"model: {file} of {name!r}: {key} is {short(value)}, expected {expected}"
            )


def weight_files_of(content: Mapping[str, Any], file: str, name: str) -> list[str]:
    """Names of the files that an index of weights lists.

    Raises
    ------
    ModelError
        If it isn't an index, or names something that isn't a file beside it.
    """
    where = f"model: {name!r} can't be loaded: its {file}"
    table = content.get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ModelError(f"{where} has weight_map {short(table)}, expected files by weight")
    for key, value in table.items():
        if not isinstance(value, str) or not re.fullmatch(r"[\w.-]+\.safetensors", value):
            raise ModelError(
                f"{where} has {short(key)}: {short(value)}, expected the name of a safetensors file"
            )
    return sorted(set(table.values()))


def told(error: Exception, content: Mapping[str, Any] | None = None) -> str:
    """Say on one short line why a library couldn't use a checkpoint's files.

    Parameters
    ----------
    content
        The config; if the library names a key, its value is quoted.
    """
    text = " ".join(str(error).split())
    named = re.search(r"[Ff]ield '(\w+)'", text)
    wanted = re.search(r"doesn't match any type in \((.+?)\)\. Errors|expected (.+?), got", text)
    if content and named and named[1] in content and wanted:
        types = re.sub(r"<class '(\w+)'>", r"\1", wanted[1] or wanted[2])
        return f"config.json has {named[1]} {short(content[named[1]])}, expected {types}"
    line = (str(error).strip().splitlines() or [""])[0]
    kind = "" if isinstance(error, OSError | ValueError | ImportError) else type(error).__name__
    return ": ".join(part for part in (kind, short(line, 150)) if part) or type(error).__name__


def short(value: object, most: int = 60) -> str:
    """Show a value, shortened to what is needed to find it; longer texts of our own as they are."""
    if isinstance(value, str) and most > 60:
        text = value
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**15:
        # Python refuses to write out a number of more than 4,300 digits.
        text = f"{value:.0e}" if abs(value) < 10**300 else "a number of over 300 digits"
    else:
        text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _processor_values(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys and values of a processor, including those of processors nested in its file."""
    for key, value in parameters.items():
        if isinstance(value, dict) and key.endswith("_processor"):
            yield from _processor_values(value)
        else:
            yield key, value


def _unfit(key: str, value: Any) -> str | None:
    """Say what was expected in place of a processor's value; None if the value is valid."""
    if key in ("size", "crop_size"):
        sizes = value.values() if isinstance(value, dict) else value
        if not isinstance(value, dict | list | tuple):
            sizes = [value]
        fits = all(size is None or _is_size(size, _MOST_PIXELS) for size in sizes)
        return None if fits else f"pixels, 1 to {_MOST_PIXELS:,}"
    if key in ("image_mean", "image_std"):
        values = value if isinstance(value, list | tuple) else [value] * 3
        fits = len(values) == 3 and all(_is_number(number) for number in values)
        if key == "image_std":
            fits = fits and all(number > 0 for number in values)
        return None if fits else "a number per channel" + ", above 0" * (key == "image_std")
    if key == "rescale_factor":
        return None if _is_number(value) and value > 0 else "a number above 0"
    if key == "resample":
        fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 5
        return None if fits else "the number of a filter, 0 to 5"
    if key == "offset" or (key.startswith("do_") and key != "do_pad"):
        return None if isinstance(value, bool) else "true or false"
    return None


def _is_size(value: Any, most: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -1e300 < value < 1e300
