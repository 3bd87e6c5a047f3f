"""What a run costs until its first shard is there: ``python -m tests.benchmarks.first_shard``.

Runs ``jobs.attribute`` as a user does, of the small model over clips in turn, and looks at every
process of its tree five times a second. Prints the seconds on the clock and of CPU until the commit
mark of the first shard is there, and of CPU by kind of process. Others on the machine lengthen the
time on the clock, and CPU time by a third or so.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.efficiency import SMALL, planned

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_S = 0.2
_KINDS = {
    "jobs.attribute": "driver",
    "pipeline.clips.decoder_process": "decoders' children",
    "Explain": "models",
    "Load": "decoding tasks",
    "ray::Write": "writers",
    "TallyActor": "tally",
    "ShardGathering": "gathering",
    "gcs_server": "Ray's daemons",
    "raylet/raylet": "Ray's daemons",
    "dashboard": "Ray's daemons",
    "Agent": "Ray's daemons",
    "monitor": "Ray's daemons",
    "ray::IDLE": "Ray's other workers",
}
"""Kinds of processes, by what is in their command lines; the first that is there counts."""


@dataclass(frozen=True)
class Process:
    parent: int
    cpu_s: float
    command: str


def processes() -> dict[int, Process]:
    """Every process of the machine, by its id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("latin-1")
        except OSError:
            continue
        cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS
        found[int(folder.name)] = Process(int(fields[1]), cpu_s, command)
    return found


class Tree:
    """CPU time of a process and of all that come of it, those included that have ended."""

    def __init__(self, root: int) -> None:
        self._ours = {root}
        self._cpu_s: dict[int, float] = {}
        self._commands: dict[int, str] = {}

    def look(self) -> None:
        """Take down how things are now."""
        found = processes()
        while more := {pid for pid, p in found.items() if p.parent in self._ours} - self._ours:
            self._ours |= more
        for pid in self._ours & found.keys():
            self._cpu_s[pid] = found[pid].cpu_s
            # Ray's workers change their names with what they do.
            command = found[pid].command
            if command not in self._commands.get(pid, ""):
                self._commands[pid] = f"{self._commands.get(pid, '')} {command}"

    def by_kind(self) -> dict[str, tuple[int, float]]:
        """Processes and CPU s of each kind that had any, the most first."""
        n_processes: Counter[str] = Counter()
        cpu_s: Counter[str] = Counter()
        for pid, seconds in self._cpu_s.items():
            known = (kind for part, kind in _KINDS.items() if part in self._commands[pid])
            kind = next(known, "others")
            n_processes[kind] += 1
            cpu_s[kind] += seconds
        return {kind: (n_processes[kind], round(s, 2)) for kind, s in cpu_s.most_common()}


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="first-shard-") as folder:
        print(json.dumps(measure(arguments, Path(folder)), indent=1))


def measure(arguments: argparse.Namespace, folder: Path) -> dict:
    planned(arguments, folder)
    run = folder / "run"
    command = [sys.executable, "-m", "jobs.attribute", f"--manifest={folder}/manifest.parquet"]
    flags = [f"--out={run}", f"--model={SMALL}", "--sampling.kind=uniform", "--device=cpu"]
    started_s = time.monotonic()
    with subprocess.Popen([*command, *flags, "--rows-per-shard=64"]) as job:
        tree = Tree(job.pid)
        while job.poll() is None and not any(run.glob("*.zarr/status/c/*")):
            # Between two looks at its processes, which cost CPU themselves.
            time.sleep(_LOOK_S)
            tree.look()
        clock_s, by_kind = time.monotonic() - started_s, tree.by_kind()
        job.terminate()
    return {
        "first_shard_s": round(clock_s, 1),
        "first_shard_cpu_s": round(sum(seconds for _, seconds in by_kind.values()), 1),
        "load": os.getloadavg(),
        "processes_and_cpu_s": by_kind,
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--clips", type=int, default=192)
    parser.add_argument("--synthetic", action="store_true", help="made clips, not ../shared/clips")
    parser.set_defaults(model="small", rows_per_shard=64)
    return parser.parse_args()


if __name__ == "__main__":
    main()
