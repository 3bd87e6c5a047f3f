"""What a fresh interpreter loads with each part: a configuration no torch, a loader no Ray."""

import subprocess
import sys

import pytest

from tests.support.processes import HANG_S

WITHOUT = {
    "from pipeline.run.config import AttributeJob": ("zarr", "ray", "torch", "fsspec"),
    "from pipeline.synthetic.config import SynthesizeConfig, TrainConfig": (
        "zarr",
        "ray",
        "torch",
        "av",
    ),
    "from pipeline.attribution.method import Method": ("zarr", "ray", "torch", "numpy"),
    "from pipeline.store.run_folder import store_url": ("zarr", "ray", "torch", "fsspec"),
    "from pipeline.store.schema import StoreLayout": ("zarr", "ray", "torch", "fsspec"),
    "from pipeline.clips.columns import Columns": ("zarr", "ray", "torch", "fsspec"),
    "from pipeline.clips.loader import ClipLoader": ("zarr", "ray", "torch"),
    # The child that decodes loads these two by name, and no more.
    "from pipeline.clips.decode import read_frames": ("zarr", "ray", "torch", "fsspec", "pydantic"),
    "from pipeline.clips.decoder_process import process_decoder": (
        "zarr",
        "ray",
        "torch",
        "decord",
    ),
    "from pipeline.models.attributor import Attributor": ("zarr", "ray", "decord"),
    "from pipeline.store.state import read_state": ("ray", "torch", "xarray", "decord"),
    "from pipeline.evaluation.localisation import Lift": ("zarr", "ray", "decord"),
    "import analysis": ("torch", "ray", "matplotlib", "decord", "analysis.page"),
    "from analysis import *": ("torch", "ray"),
    # Dask loads jinja2 by itself, for what it shows in notebooks; our page isn't loaded.
    "from analysis import open_run": ("torch", "ray", "matplotlib", "decord", "analysis.page"),
}
"""Statement, and modules that it must not load."""


def loaded_by(statement, before=""):
    """Modules that are in a fresh interpreter after a statement."""
    code = f"{before}\n{statement}\nimport sys; print('\\n'.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=True
    )
    return set(result.stdout.splitlines())


@pytest.mark.parametrize("statement", WITHOUT)
def test_a_part_loads_no_more_than_it_needs(statement):
    loaded = loaded_by(statement)
    assert not loaded & set(WITHOUT[statement])


def test_what_draws_is_loaded_when_it_is_asked_for():
    loaded = loaded_by("from analysis import write_report")
    assert {"matplotlib", "analysis.page.report"} <= loaded
