"""Damaged inputs by command, with figures: ``python -m tests.system.study_of_hostile_inputs``.

Prints for each kind of input the exit codes of so many commands, how many answers are a traceback,
a hang, or not one line, and the seconds that each took; then each such answer. Commands are forked
from an interpreter that has imported their modules, see `tests.support.fork_server`; with
``--fresh`` each starts by itself, as in ``tests/system/test_hostile_inputs.py``.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from tests.support.fork_server import ForkServer, fork_server
from tests.support.hostile_inputs import KINDS, World, answers
from tests.support.mutations import seed_of_the_day

FAULTS = ("traceback", "hangs")
"""Those that are counted apart; any other is in how many lines there are, or which."""


def main() -> int:
    """Run the study; 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="commands of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which, with commas between")
    parser.add_argument("--fresh", action="store_true", help="each in a fresh interpreter")
    options = parser.parse_args()
    seed = seed_of_the_day()
    n_wrong = 0
    with tempfile.TemporaryDirectory(prefix="staa-hostile-") as name:
        folder = Path(name)
        world = World.make(folder / "world")
        with nullcontext() if options.fresh else fork_server(folder) as server:
            if server:
                warm_up(server, world, folder)
            print("kind          exit 0     1     2   traceback  hang  other lines  s each")
            for kind in options.kinds.split(","):
                n_wrong += study(world, kind, folder, seed, options, server)
    return 1 if n_wrong else 0


def warm_up(server: ForkServer, world: World, folder: Path) -> None:
    """Have the server import what each verb needs for inputs that are whole."""
    run, clips = folder / "whole", world.folder / "clips"
    server.warm_up(["jobs.attribute", *world.inputs.flags(run, "--serial")])
    for verb in ("status", "verify", "aggregate"):
        server.warm_up([f"jobs.{verb}", str(run), *["--no-report"] * (verb == "aggregate")])
    out = f"--out={folder / 'whole.parquet'}"
    server.warm_up(["jobs.manifest", "--layout=files", f"--clips={clips}", out])


def study(
    world: World,
    kind: str,
    folder: Path,
    seed: int,
    options: argparse.Namespace,
    server: ForkServer | None,
) -> int:
    """Print the figures of a kind: how many answers are wrong."""
    started_s = time.monotonic()
    numbers = range(options.first, options.first + options.count)
    codes, wrong = answers(world, kind, folder, seed, numbers, server)
    each_s = (time.monotonic() - started_s) / options.count
    faults = Counter(answer.fault for _, answer in wrong)
    n_others = len(wrong) - sum(faults[fault] for fault in FAULTS)
    told = f"{kind:<12} " + " ".join(f"{codes[code]:>6}" for code in (0, 1, 2))
    told += "".join(f" {faults[fault]:>9}" for fault in FAULTS)
    print(f"{told} {n_others:>9} {each_s:>10.2f}", flush=True)
    for number, answer in wrong:
        print(f"  {number}: {answer.fault}: {answer.command}\n{answer.stderr[-3000:]}", flush=True)
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
