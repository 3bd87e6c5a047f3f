"""`--minutes`: tests that no time is left for are left out, and named."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import in_the_days_order

ROOT = Path(__file__).parents[1]


def test_what_no_time_is_left_for_is_named_and_not_run():
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "--minutes", "0", "tests/test_status.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "passed" not in ended.stdout
    assert "tests left out: no time is left of --minutes" in ended.stdout
    assert "\ntests/test_status.py::" in ended.stdout


class Item:
    def __init__(self, nodeid):
        self.nodeid = nodeid


def test_days_differ_and_the_tests_of_a_file_stay_together_in_their_order():
    items = [Item(f"tests/test_{file}.py::test_{test}") for file in "abcdef" for test in "xyz"]
    orders = [[item.nodeid for item in in_the_days_order(items, day)] for day in range(8)]
    assert len({tuple(order) for order in orders}) > 1
    for order in orders:
        assert sorted(order) == [item.nodeid for item in items]
        for at in range(0, len(order), 3):
            assert order[at : at + 3] == sorted(order[at : at + 3])
