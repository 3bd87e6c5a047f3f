"""CPU time until a command answers: ``python -m tests.benchmarks.startup``.

For each verb, ``--help``, a wrong flag and a wrong key of a file, each in a fresh interpreter, in
seconds of CPU (user and system, children included): the median of some runs. The bound is 1.5 s.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from jobs.__main__ import verbs

N_RUNS = 5
LIMIT_S = 1.5


def cpu_s(argv: list[str]) -> float:
    """Seconds of CPU that a command takes."""
    before = os.times()
    subprocess.run(argv, capture_output=True, check=False)
    after = os.times()
    return (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )


def main() -> None:
    """Print a line for each verb, and what is above the bound."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        file.write_text("colour: red\n")
        cases = {
            "--help": ["--help"],
            "wrong flag": ["--colour", "red"],
            "wrong key": [f"--config={file}"],
        }
        print(f"{'CPU s':<12}" + "".join(f"{case:>12}" for case in cases))
        worst = 0.0
        for verb in verbs():
            line = f"{verb:<12}"
            for flags in cases.values():
                argv = [sys.executable, "-m", f"jobs.{verb}", *flags]
                seconds = statistics.median(cpu_s(argv) for _ in range(N_RUNS))
                worst = max(worst, seconds)
                line += f"{seconds:>12.2f}"
            print(line)
    print(f"worst {worst:.2f} s of {LIMIT_S} s")


if __name__ == "__main__":
    main()
