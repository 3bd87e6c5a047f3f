"""The memory that a process may use, by files as Linux shows them."""

import os

import pytest

from pipeline.stream.memory import memory_of_process

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
GB = 1_000_000_000

CASES = {
    "no limit": ("0::/", {"memory.max": "max\n"}, MACHINE),
    "a container's own group is its root": ("0::/", {"memory.max": f"{GB}\n"}, GB),
    "a group above has less": (
        "0::/pod/container",
        {"pod/memory.max": f"{GB}\n", "pod/container/memory.max": f"{2 * GB}\n"},
        GB,
    ),
    "version 1, as a container sees it": (
        "5:cpu,cpuacct:/docker/a\n3:memory:/docker/a",
        {"memory/memory.limit_in_bytes": f"{GB}\n"},
        GB,
    ),
    "version 1 says no limit by a large number": (
        "3:memory:/",
        {"memory/memory.limit_in_bytes": "9223372036854771712\n"},
        MACHINE,
    ),
    "of another controller": ("3:pids:/a", {"pids/a/memory.max": "5\n"}, MACHINE),
    "what can't be read is no limit": ("0::/a\nbroken", {"a/memory.max": "much"}, MACHINE),
}


@pytest.mark.parametrize(("own", "files", "expected"), CASES.values(), ids=CASES)
def test_the_least_limit_counts(tmp_path, own, files, expected):
    (tmp_path / "self").write_text(own)
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert memory_of_process(tmp_path / "cgroup", tmp_path / "self") == expected


def test_a_machine_without_control_groups_has_its_own_memory(tmp_path):
    assert memory_of_process(tmp_path, tmp_path / "nowhere") == MACHINE
