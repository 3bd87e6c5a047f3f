"""The documents say what is true: paths exist, commands parse, and the notebook's lines run."""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

from jobs.__main__ import verbs
from jobs.cli import parse
from pipeline.base_config import FrozenConfig

ROOT = Path(__file__).parent.parent
DOCUMENTS = tuple(
    path.relative_to(ROOT).as_posix()
    for path in sorted(ROOT.rglob("*.md"))
    if not {".venv", "runs", "build", "node_modules"} & set(path.relative_to(ROOT).parts)
)
COMMANDS = (
    "CONTRIBUTING.md",
    "Makefile",
    "README.md",
    "jobs/README.md",
    "pipeline/storage/README.md",
)


def config_of(verb):
    """Configuration class of a verb, from the line of its module that runs the job."""
    module = importlib.import_module(f"jobs.{verb}")
    source = Path(module.__file__).read_text()
    (name,) = set(re.findall(r"run_job\(\s*(\w+),", source))
    return getattr(module, name)


def commands_of(name):
    """Every ``python -m jobs.VERB ...`` of a document or the Makefile, as words."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    for variable, value in re.findall(r"^([A-Z_]+) := (.*)$", text, flags=re.MULTILINE):
        if variable != "BIN":
            text = text.replace(f"$({variable})", value)
    found = re.findall(r"^\s*(?:\$\(BIN\)/)?python -m jobs\.(.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_every_verb_is_a_job_with_a_configuration(verb):
    assert issubclass(config_of(verb), FrozenConfig)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_that_is_linked_exists(name):
    document = ROOT / name
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text())
    absent = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not absent


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_understood(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = commands_of(name)
    assert commands
    for verb, *arguments in commands:
        parse(config_of(verb), verb=verb, argv=arguments)


@pytest.mark.parametrize("name", ["README.md", "analysis/README.md"])
def test_the_notebooks_lines_run(finished_run, tmp_path, monkeypatch, name):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    shutil.copytree(finished_run.out, "my/run")
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    n_ok = len(finished_run.inputs.video_ids) - len(finished_run.damaged)
    for name in {"attribution", "focused"} & names.keys():
        attribution = names[name].sum(("time", "y", "x")).compute()
        assert (abs(attribution - 1) < 1e-3).sum() == n_ok
    assert float(names["when"].sum()) == pytest.approx(1, abs=1e-5)
    assert set(names["where"].dims) == {"class", "y", "x"}
