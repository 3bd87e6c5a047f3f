"""The memory that this process may use: the machine's, or less in a container."""

import os
from pathlib import Path

_LIMITS = {"": "memory.max", "memory": "memory.limit_in_bytes"}
"""Files that hold a limit, by the controllers of a line of ``/proc/self/cgroup``: version 2, 1."""


def memory_of_process(
    cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """Give the bytes of memory that this process may use at most.

    Parameters
    ----------
    cgroups
        Where Linux shows control groups.
    own
        File that names those of the process: https://docs.kernel.org/admin-guide/cgroup-v2.html.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for controllers, group in _groups(own):
        for name in set(controllers.split(",")) & set(_LIMITS):
            mounted = cgroups / name
            folder = mounted / group.lstrip("/")
            # A group has no more than those above it; a container may see its own as the root.
            for each in (folder, *folder.parents):
                if each == mounted or mounted in each.parents:
                    limits += _limit(each / _LIMITS[name])
    return min(limits)


def _groups(own: Path) -> list[tuple[str, str]]:
    """Read controllers and group of each line; there are none without control groups."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    parts = [line.split(":", 2) for line in lines]
    return [(part[1], part[2]) for part in parts if len(part) == 3]


def _limit(file: Path) -> list[int]:
    try:
        text = file.read_text().strip()
    except OSError:
        return []
    return [int(text)] if text.isdigit() else []
