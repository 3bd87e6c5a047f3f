"""Inputs that are damaged at random, with a seed that changes daily and is printed."""

import json
import os
from datetime import UTC, datetime
from random import Random
from typing import Any

SEED_VARIABLE = "STAA_TEST_SEED"
"""Environment variable with a seed, to repeat a day's damage."""

_TEXTS = (
    b'"',
    b",",
    b"\n",
    b"\t",
    b"{",
    b"[",
    b"nan",
    b"1e999",
    b"null",
    b"-1",
    b"#",
    b"../",
    b"/",
)
_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 10**9, 10**30, 0.5, 1e308, float("nan"), float("inf")),
    *("", "text", "0", "../x", "\x1b[2J", "x" * 2000, [], [1, 2], [[]], {}, {"a": 1}),
)


def seed_of_the_day() -> int:
    """Seed of the day; pytest shows it if a test fails."""
    seed = int(os.environ.get(SEED_VARIABLE, datetime.now(UTC).strftime("%Y%m%d")))
    print(f"seed {seed}: repeat it by {SEED_VARIABLE}={seed}")
    return seed


def mutated_bytes(data: bytes, random: Random) -> bytes:
    """Flip bits, or remove, insert, double or cut off bytes."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 5])):
        place = random.randrange(len(changed) + 1)
        kind = random.randrange(5)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << random.randrange(8)
        elif kind == 1:
            del changed[place : place + random.randrange(1, 30)]
        elif kind == 2:
            changed[place:place] = random.randbytes(random.randrange(1, 9))
        elif kind == 3:
            changed[place:place] = changed[max(0, place - random.randrange(1, 60)) : place]
        else:
            del changed[place:]
    return bytes(changed)


def mutated_text(data: bytes, random: Random) -> bytes:
    """Mutate a text so that most of it stays text."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2])):
        place = random.randrange(len(changed) + 1)
        kind = random.randrange(5)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << random.randrange(5)
        elif kind == 1:
            del changed[place : place + random.randrange(1, 30)]
        elif kind == 2:
            changed[place:place] = changed[max(0, place - random.randrange(1, 60)) : place]
        else:
            changed[place : place + 1] = random.choice(_TEXTS)
    return bytes(changed)


def mutated_json(data: bytes, random: Random) -> bytes:
    """Remove, exchange or add values in a JSON text, at any depth."""
    content = json.loads(data)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        places = list(_places(content))
        if not places:
            break
        holder, key = random.choice(places)
        kind = random.randrange(6)
        if kind == 0 and isinstance(holder, dict):
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[random.choice(["", "a" * 300, "0", str(key) + "x"])] = holder.pop(key)
        elif kind == 2 and isinstance(holder[key], int | float):
            holder[key] = random.choice([holder[key] * 2, -holder[key], str(holder[key]), 0.1])
        else:
            holder[key] = random.choice(_VALUES)
    return json.dumps(content).encode()


def _places(content: Any) -> Any:
    """Every table or list in some content, with each of its keys."""
    keys = content if isinstance(content, dict) else range(len(content))
    for key in list(keys):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _places(content[key])
