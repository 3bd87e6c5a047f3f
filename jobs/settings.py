"""Settings from YAML and flags: read without trust, put together, and told where they are wrong."""

import difflib
import reprlib
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.base_config import FrozenConfig
from pipeline.errors import ConfigError, reason_of
from pipeline.storage.files import read_bytes

MAX_FILE_BYTES = 10_000_000
MAX_VALUES = 10_000
"""Values of a settings file, those counted again that an alias repeats: ten lines of aliases of
aliases are thousands of millions."""
MAX_LEVELS = 50
N_PROBLEMS_TOLD = 3

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxtuple = 4


def read_settings(url: str) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises
    ------
    ConfigError
        When it can't be read, isn't YAML, has a key twice, is nested or repeats itself beyond all
        measure, or has no keys at its top.
    """
    try:
        data = read_bytes(url, at_most=MAX_FILE_BYTES)
    # The last two: a protocol that fsspec doesn't know, or has no driver of.
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"config: can't read {url}: {reason_of(error)}") from error
    loader = None
    try:
        loader = yaml.SafeLoader(data.decode())
        node = loader.get_single_node()
        if node is None:
            values = None
        else:
            _check_node(node, url)
            values = loader.construct_document(node)
    except RecursionError as error:
        raise ConfigError(
            f"config: {url} is nested too deeply, expected at most {MAX_LEVELS} levels"
        ) from error
    except ConfigError:
        raise
    # Beside its own errors, PyYAML lets those of Python through: of dates, numbers and tags.
    except Exception as error:
        raise ConfigError(f"config: {url} is not YAML: {reason_of(error)}") from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(values, dict):
        raise ConfigError(f"config: {url} has {type(values).__name__} at its top, expected keys")
    return values


def merge(
    config_class: type[BaseModel], base: dict[str, Any], over: dict[str, Any]
) -> dict[str, Any]:
    """Values of both, those of ``over`` where both have one; key by key in a group of options.

    A table whose keys are the user's own is one value: what the file has isn't mixed in.
    """
    nested = {}
    for key, group in _groups(config_class).items():
        below, above = _spelled_out(group, base.get(key)), _spelled_out(group, over.get(key))
        if isinstance(below, dict) and isinstance(above, dict):
            nested[key] = merge(group, below, above)
    return base | over | nested


def flag(key: str) -> str:
    """Flag of a key."""
    return f"--{key.replace('_', '-')}"


def spelled_out(arguments: Sequence[str], config_class: type[BaseModel]) -> list[str]:
    """Arguments with ``--method rollout`` as ``--method.name rollout``, as a file may have both."""
    of_name = {
        flag(key): flag(f"{key}.{name}")
        for key, group in _groups(config_class).items()
        if issubclass(group, FrozenConfig) and (name := group.named_by)
    }
    told = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        name, equals, value = argument.partition("=")
        is_group = (value if equals else following).lstrip().startswith("{")
        told.append(argument if is_group else of_name.get(name, name) + equals + value)
    return told


def described(error: ValidationError, config_class: type[BaseModel]) -> str:
    """Say what is wrong with values: key, reason and value of each, of many the first."""
    problems = error.errors()
    told = [_described(dict(problem), config_class) for problem in problems[:N_PROBLEMS_TOLD]]
    if len(problems) > N_PROBLEMS_TOLD:
        told.append(f"and {len(problems) - N_PROBLEMS_TOLD} more")
    return "; ".join(told)


def with_suggestion(message: str, arguments: Sequence[str], config_class: type[BaseModel]) -> str:
    """Say of a flag that isn't known which one it is like, and of a group's that it needs a key."""
    for key, group in _groups(config_class).items():
        is_json = any(argument.startswith(f"{flag(key)}={{") for argument in arguments)
        if f'field "{key}"' in message and not is_json:
            first = next(iter(group.model_fields))
            return f"{flag(key)} is a group of options; expected {flag(f'{key}.{first}')}, for one"
    for key, field in config_class.model_fields.items():
        is_list = get_origin(field.annotation) in (list, tuple)
        if is_list and (f'field "{key}"' in message or f"for {key}:" in message):
            return (
                f"{key}: can't be parted: expected ./[name] for a name that begins with [ or {{, "
                "and none with a double quote within"
            )
    known = ["--config", *(flag(key) for key in _keys(config_class))]
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and name in message and name not in known:
            return message + _suggestion(name, known)
    return message


def check_given_once(arguments: Sequence[str], config_class: type[BaseModel]) -> None:
    """Refuse a flag that is given twice, of which the last would win without a word.

    Those of tables and lists may be: their values come together.

    Raises
    ------
    ConfigError
        Names it.
    """
    several = {
        key
        for key, field in config_class.model_fields.items()
        if get_origin(field.annotation) in (dict, list, tuple)
    }
    known = {flag(key) for key in _keys(config_class) if key not in several} | {"--config"}
    seen: set[str] = set()
    for argument in arguments:
        if argument == "--":
            return
        name = argument.partition("=")[0].replace("_", "-")
        if name not in known and name.startswith("--no-"):
            name = f"--{name.removeprefix('--no-')}"
        if name not in known:
            continue
        if name in seen:
            raise ConfigError(f"{name} is given twice")
        seen.add(name)


def _described(problem: dict[str, Any], config_class: type[BaseModel]) -> str:
    location = [str(part)[:60] for part in problem["loc"]]
    key = ".".join(location)
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{key}: {reason}{_suggestion(key, list(_keys(config_class)))}"
    of_value = problem["type"] not in ("missing", "value_error")
    given = f" (got {_SHORT.repr(problem['input'])})" if of_value else ""
    return f"{key}: {reason}{given}" if key else f"{reason}{given}"


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name[:60], known, n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def _keys(config_class: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key, those of groups with the group before them."""
    groups = _groups(config_class)
    for key in config_class.model_fields:
        yield prefix + key
        if key in groups:
            yield from _keys(groups[key], f"{prefix}{key}.")


def _spelled_out(group: type[BaseModel], given: Any) -> Any:
    """Give a text that stands for a group as the group."""
    return group.spelled_out(given) if issubclass(group, FrozenConfig) else given


def _groups(config_class: type[BaseModel]) -> dict[str, type[BaseModel]]:
    return {
        key: field.annotation
        for key, field in config_class.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }


def _check_node(node: yaml.Node, url: str) -> None:
    """Refuse a document that would be endless if it were written out, or has a key twice."""
    n_values: dict[int, int] = {}

    def count(node: yaml.Node, levels: tuple[int, ...]) -> int:
        if id(node) in levels:
            line = node.start_mark.line + 1
            raise ConfigError(f"config: {url} line {line}: an alias refers to itself")
        if len(levels) >= MAX_LEVELS:
            raise ConfigError(
                f"config: {url} is nested too deeply, expected at most {MAX_LEVELS} levels"
            )
        if id(node) not in n_values:
            inner = (*levels, id(node))
            n_values[id(node)] = 1 + sum(count(child, inner) for child in _children(node, url))
            if n_values[id(node)] > MAX_VALUES:
                raise ConfigError(
                    f"config: {url} has more than {MAX_VALUES:,} values, counting what aliases "
                    "repeat"
                )
        return n_values[id(node)]

    count(node, ())


def _children(node: yaml.Node, url: str) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise ConfigError(
                        f"config: {url} line {line}: {key.value[:60]!r} is given twice"
                    )
                seen.add(key.value)
            yield key
            yield value
