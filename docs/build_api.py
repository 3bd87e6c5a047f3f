"""Builds pages of the API from the docstrings: ``make docs``.

pdoc reads what a module holds, and `analysis` loads its names when they are asked for.
"""

import sys

from pdoc.__main__ import cli

import analysis

for name in analysis.__all__:
    setattr(analysis, name, getattr(analysis, name))
sys.exit(cli(["--docformat", "numpy", "--output-directory", "build/docs", *sys.argv[1:]]))
