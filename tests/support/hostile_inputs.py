"""Inputs of every kind, damaged at random, and what a command says of them."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from jobs.aggregate import AggregateConfig, aggregate
from jobs.cli import run_job
from pipeline.run.serial import execute_serially
from pipeline.text import LINE_LENGTH
from tests.support.fork_server import ForkServer
from tests.support.mutations import mutated_bytes, mutated_json, mutated_text
from tests.support.runs import Inputs, prepared, write_inputs

ROOT = Path(__file__).parents[2]
HANG_S = 300
N_CLIPS = 4


@dataclass(frozen=True)
class World:
    """A small dataset with its model, its run, and every file that a command reads."""

    folder: Path
    inputs: Inputs

    @classmethod
    def make(cls, folder: Path) -> "World":
        """Write it; its run is whole, with scores, statistics and a page."""
        inputs = write_inputs(folder, N_CLIPS)
        execute_serially(prepared(inputs.config(folder / "run")))
        argv = [str(folder / "run"), "--no-report"]
        assert run_job(AggregateConfig, aggregate, verb="aggregate", argv=argv) == 0
        world = cls(folder, inputs)
        (folder / "run.yaml").write_text(
            f"manifest: {inputs.manifest}\nmodel: {inputs.model}\nbatch_size: 2\n"
            "rows_per_shard: 4\nserial: true\nmethod: {layers: last, heads: mean}\n"
        )
        return world

    def copy(self, name: str, target: Path) -> Path:
        """Copy a file or folder of it, to be damaged."""
        source = self.folder / name
        if source.is_dir():
            return Path(shutil.copytree(source, target / source.name))
        return Path(shutil.copy(source, target / source.name))


@dataclass(frozen=True)
class Hostile:
    """A command, and the files that were damaged for it."""

    verb: str
    argv: tuple[str, ...]

    def run(self, server: ForkServer | None = None) -> "Answer":
        """Run it as a user does, or by a server."""
        command = (f"jobs.{self.verb}", *self.argv)
        if server:
            return Answer(self, *server.run(command, HANG_S))
        try:
            done = subprocess.run(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=HANG_S,
            )
        except subprocess.TimeoutExpired:
            return Answer(self, None, "", "")
        return Answer(self, done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Answer:
    """What came of a command."""

    command: Hostile
    code: int | None
    """Its exit code; None if it hung."""
    stdout: str
    stderr: str

    @property
    def fault(self) -> str:
        """What is wrong with the answer; empty where nothing is."""
        if self.code is None:
            return "hangs"
        if "Traceback" in self.stderr + self.stdout:
            return "traceback"
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}"
        lines = self.stderr.splitlines()
        if self.code and not (lines and lines[-1].startswith(f"{self.command.verb}: error: ")):
            return "no last line"
        if any(len(line) > LINE_LENGTH + 60 for line in lines):
            return "long line"
        if self.code == 2 and sum(": error: " in line for line in lines) != 1:
            return "several errors"
        return ""


def _manifest(world: World, target: Path, random: Random) -> Hostile:
    file = world.copy("clips.parquet", target)
    file.write_bytes(mutated_bytes(file.read_bytes(), random))
    return _attribute(world, target, f"--manifest={file}")


def _settings(world: World, target: Path, random: Random) -> Hostile:
    file = world.copy("run.yaml", target)
    mutate = random.choice([mutated_bytes, mutated_text])
    file.write_bytes(mutate(file.read_bytes(), random))
    # A run on Ray, where the damage leaves no `serial`, is another test's.
    return Hostile("attribute", (f"--config={file}", f"--out={target / 'run'}", "--serial"))


def _model(world: World, target: Path, random: Random) -> Hostile:
    folder = world.copy("model", target)
    file = random.choice([*sorted(folder.glob("*.json")) * 3, folder / "model.safetensors"])
    is_text = file.suffix == ".json"
    mutate = random.choice([mutated_json, mutated_json, mutated_text]) if is_text else mutated_bytes
    file.write_bytes(mutate(file.read_bytes(), random))
    return _attribute(world, target, f"--model={folder}")


def _annotations(world: World, target: Path, random: Random) -> Hostile:
    names = sorted(path.name for path in (world.folder / "clips").iterdir())
    layout, text = random.choice(
        [
            ("list", "".join(f"{name} {row}\n" for row, name in enumerate(names))),
            ("table", "path,label\n" + "".join(f"{name},{name[0]}\n" for name in names)),
            ("ucf101", "".join(f"A/{name} {row + 1}\n" for row, name in enumerate(names))),
            ("ssv2", json.dumps([{"id": Path(name).stem, "template": "a [b]"} for name in names])),
        ]
    )
    file = target / ("annotations.csv" if layout == "table" else "annotations")
    kinds = [mutated_bytes, mutated_text, *([mutated_json] if layout == "ssv2" else [])]
    file.write_bytes(random.choice(kinds)(text.encode(), random))
    out = f"--out={target / 'manifest.parquet'}"
    clips = f"--clips={world.folder / 'clips'}"
    return Hostile("manifest", (f"--layout={layout}", clips, f"--annotations={file}", out))


def _clip(world: World, target: Path, random: Random) -> Hostile:
    clips = world.copy("clips", target)
    for file in random.sample(sorted(clips.iterdir()), 2):
        file.write_bytes(mutated_bytes(file.read_bytes(), random))
    manifest = target / "clips.parquet"
    _as_manifest(clips, manifest)
    return _attribute(world, target, f"--manifest={manifest}")


def _as_manifest(clips: Path, file: Path) -> None:
    from pipeline.dataset.layouts import build_manifest
    from pipeline.dataset.manifest import write_manifest

    write_manifest(build_manifest(layout="files", clips=str(clips)), str(file))


def damage_store(run: Path, random: Random) -> Path:
    """Damage or delete one object of a run's store: which."""
    objects = sorted(path for path in (run / "attributions.zarr").rglob("*") if path.is_file())
    file = random.choice(objects)
    if random.randrange(6) == 0:
        file.unlink()
        return file
    mutate = mutated_bytes
    if file.suffix == ".json":
        mutate = random.choice([mutated_json, mutated_text, mutated_bytes])
    file.write_bytes(mutate(file.read_bytes(), random))
    return file


def _store(world: World, target: Path, random: Random) -> Hostile:
    run = world.copy("run", target)
    damage_store(run, random)
    verb = random.choice(["status", "verify", "aggregate", "attribute"])
    if verb == "attribute":
        return _attribute(world, target)
    return Hostile(verb, (str(run), *(["--no-report"] if verb == "aggregate" else [])))


def _attribute(world: World, target: Path, *flags: str) -> Hostile:
    return Hostile("attribute", tuple(world.inputs.flags(target / "run", "--serial", *flags)))


KINDS: dict[str, Callable[[World, Path, Random], Hostile]] = {
    "manifest": _manifest,
    "settings": _settings,
    "model": _model,
    "annotations": _annotations,
    "clip": _clip,
    "store": _store,
}
"""Damages a copy of one kind of input, and gives a command that reads it."""


def answers(
    world: World,
    kind: str,
    folder: Path,
    seed: int,
    numbers: Iterable[int],
    server: ForkServer | None = None,
) -> tuple[Counter[int | None], list[tuple[int, Answer]]]:
    """Run a command on each of some damaged inputs: exit codes, and the answers that are wrong."""
    codes: Counter[int | None] = Counter()
    wrong = []
    for number in numbers:
        target = folder / f"{kind}-{number}"
        target.mkdir(parents=True)
        answer = KINDS[kind](world, target, Random(f"{seed} {kind} {number}")).run(server)
        codes[answer.code] += 1
        if answer.fault:
            wrong.append((number, answer))
        shutil.rmtree(target)
    return codes, wrong
