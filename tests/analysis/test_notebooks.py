"""The notebooks, cell by cell from top to bottom, on simulated runs and a Dask cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.analysis.simulated_runs import CLASS_NAMES, simulated
from tests.analysis.stores import write_run

FOLDER = Path(__file__).parents[2] / "analysis" / "notebooks"
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


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    urls = []
    for name, kinds in (("one", ("logo",)), ("other", ())):
        layout, columns = simulated(3, kinds, clips_per_class=20).columns()
        urls.append(write_run(folder / name, layout, columns, class_names=CLASS_NAMES))
    return urls


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook, runs, tmp_path):
    script, cells = code_of(notebook)
    (tmp_path / "notebook.py").write_text(script)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "notebook.py")],
        input=cells,
        env={
            **os.environ,
            "PYTHONPATH": str(FOLDER.parents[1]),
            "STAA_RUN": runs[0],
            "STAA_OTHER_RUN": runs[1],
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_there_are_three_notebooks_without_outputs():
    assert len(NOTEBOOKS) == 3
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text())["cells"]
        assert not any(cell.get("outputs") for cell in cells)
        assert all(cell["source"] for cell in cells)
