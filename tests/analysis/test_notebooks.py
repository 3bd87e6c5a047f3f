"""The notebooks, cell by cell from top to bottom, on the demo's run and a Dask cluster.

The demo's run has fewer and smaller clips here, and is made without Ray; the clips, the model and
the commands are those of `make demo`. Nothing stands out in it, so the notebook about findings also
goes over a simulated run that has one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.analysis.simulated_runs import CLASS_NAMES, simulated
from tests.analysis.stores import write_run

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "analysis" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_of(notebook):
    """Code of a notebook as a script that shows what each cell would."""
    cells = json.loads(notebook.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return "\n".join(
        [
            "import ast, json, sys",
            "import matplotlib",
            "matplotlib.use('Agg')",
            "def main():",
            "    names = {'__name__': 'notebook'}",
            "    for source in json.loads(sys.stdin.read()):",
            "        tree = ast.parse(source)",
            "        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None",
            "        exec(compile(tree, 'cell', 'exec'), names)",
            "        if last is not None:",
            "            value = eval(compile(ast.Expression(last.value), 'cell', 'eval'), names)",
            "            shown = getattr(value, '_repr_html_', value.__repr__)()",
            "            assert shown is None or shown",
            # Workers are started as processes that import this script.
            "if __name__ == '__main__':",
            "    main()",
        ]
    ), json.dumps(sources)


def job(verb, *flags):
    """Run a verb as a user would."""
    command = [sys.executable, "-m", f"jobs.{verb}", *map(str, flags)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's run, and one of the same clips by another method."""
    folder = tmp_path_factory.mktemp("demo")
    clips, manifest = folder / "dataset", folder / "manifest.parquet"
    small = ("--width=128", "--height=96", "--fps=10", "--min-duration-s=2", "--max-duration-s=3")
    job("synthesize", f"--out={clips}", "--n-clips=20", *small)
    annotations = f"--annotations={clips}/annotations.csv"
    job("manifest", "--layout=kinetics", annotations, f"--clips={clips}/clips", f"--out={manifest}")
    runs = {"staa": folder / "run", "rollout": folder / "other"}
    for method, out in runs.items():
        where = (f"--manifest={manifest}", f"--out={out}")
        job("attribute", "--config=jobs/demo.yaml", "--serial", f"--method.name={method}", *where)
    return [str(out) for out in runs.values()]


@pytest.fixture(scope="module")
def with_a_finding(tmp_path_factory):
    layout, columns = simulated(3, ("logo",), clips_per_class=20).columns()
    run = tmp_path_factory.mktemp("simulated") / "run"
    return [write_run(run, layout, columns, class_names=CLASS_NAMES)] * 2


def check_it_runs(notebook, runs, folder):
    script, cells = code_of(notebook)
    (folder / "notebook.py").write_text(script)
    done = subprocess.run(
        [sys.executable, str(folder / "notebook.py")],
        input=cells,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "STAA_RUN": runs[0],
            "STAA_OTHER_RUN": runs[1],
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom_on_the_demos_run(notebook, demo, tmp_path):
    check_it_runs(notebook, demo, tmp_path)


@pytest.mark.slow
def test_a_finding_is_followed_to_its_cause(with_a_finding, tmp_path):
    check_it_runs(FOLDER / "follow_a_finding.ipynb", with_a_finding, tmp_path)


def test_there_are_three_notebooks_without_outputs():
    assert len(NOTEBOOKS) == 3
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text())["cells"]
        assert not any(cell.get("outputs") for cell in cells)
        assert all(cell["source"] for cell in cells)
