"""Ports of loopback for servers that are told theirs before they start."""

import random
import socket
from contextlib import ExitStack, suppress

_CANDIDATES = range(20_000, 32_768)
"""Ports that nobody is given unasked: a system draws those of connections from above (from 32768 on
Linux, 49152 elsewhere), Ray those of its workers from below (10002 to 19999). A port that was free
a moment ago could else be another's by the time the server listens."""


def free_ports(count: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> list[int]:
    """Different ports on which nothing listens, drawn by chance: other test processes draw, too."""
    drawn = random.SystemRandom().sample(_CANDIDATES, len(_CANDIDATES))
    found: list[int] = []
    with ExitStack() as held:
        for port in drawn:
            if len(found) == count:
                break
            each = held.enter_context(socket.socket(socket.AF_INET, kind))
            with suppress(OSError):
                each.bind(("127.0.0.1", port))
                found.append(port)
    assert len(found) == count, f"only {len(found)} of {count} ports are free"
    return found


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port on which nothing listens."""
    (port,) = free_ports(1, kind)
    return port
