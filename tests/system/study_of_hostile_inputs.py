"""Damaged inputs by command, with figures: ``python -m tests.system.study_of_hostile_inputs``.

Prints for each kind of input the exit codes of so many commands, the time that they took, and each
answer that is a traceback, a hang, or not one line.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.support.hostile_inputs import KINDS, World, answers
from tests.support.mutations import seed_of_the_day


def main() -> int:
    """Run the study; 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="commands of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which, with commas between")
    options = parser.parse_args()
    seed = seed_of_the_day()
    n_wrong = 0
    with tempfile.TemporaryDirectory(prefix="staa-hostile-") as folder:
        world = World.make(Path(folder) / "world")
        print(f"{'kind':<12} {'read':>5} {'left':>5} {'bad':>5} {'wrong':>6} {'s each':>7}")
        for kind in options.kinds.split(","):
            started_s = time.monotonic()
            codes, wrong = answers(world, kind, Path(folder), seed, options.count)
            each_s = (time.monotonic() - started_s) / options.count
            counts = " ".join(f"{codes[code]:>5}" for code in (0, 1, 2))
            print(f"{kind:<12} {counts} {len(wrong):>6} {each_s:>7.2f}", flush=True)
            for number, answer in wrong:
                print(f"  {number}: {answer.fault}: {answer.command}\n{answer.stderr[-3000:]}")
            n_wrong += len(wrong)
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
