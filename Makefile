# Everything runs in .venv; nothing else has to be set up. `make help` lists the targets.

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
MODEL := pipeline/synthetic/checkpoint

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types check clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/installed  ## Create .venv and install the project with its development tools

.venv/installed: pyproject.toml constraints.txt
	@echo "== install into .venv"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install  ## Write a small dataset, attribute it, and make its report in runs/demo
	@echo "== write a dataset of synthetic actions"
	$(BIN)/python -m jobs.synthesize --out $(DEMO)/dataset --n-clips 60
	@echo "== list its clips"
	$(BIN)/python -m jobs.manifest --layout kinetics --clips $(DEMO)/dataset/clips \
		--annotations $(DEMO)/dataset/annotations.csv --out $(DEMO)/manifest.parquet
	@echo "== attribute them on a local Ray"
	$(BIN)/python -m jobs.attribute --config jobs/demo.yaml
	@echo "== measure the attributions against the ground truth"
	$(BIN)/python -m jobs.evaluate $(DEMO) --ground-truth $(DEMO)/dataset/ground_truth.zarr
	@echo "== reduce them to class statistics"
	$(BIN)/python -m jobs.aggregate $(DEMO)
	@echo "== make the report"
	$(BIN)/python -m jobs.report $(DEMO)
	@echo
	@echo "attributions  $(DEMO)/attributions.zarr   xarray.open_zarr, or analysis.open_run('$(DEMO)')"
	@echo "statistics    $(DEMO)/statistics.zarr     xarray.open_zarr, or analysis.open_statistics('$(DEMO)')"
	@echo "metrics       $(DEMO)/metrics.zarr"
	@echo "failures      $(DEMO)/failures.parquet"
	@echo "report        $(DEMO)/report/index.html   open it in a browser"

test: install  ## Run every test
	@echo "== tests"
	$(BIN)/python -m pytest

lint: install  ## Check style and format
	@echo "== lint and format"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## Check types
	@echo "== types"
	$(BIN)/mypy

check: test lint types  ## All that CI runs

clean:  ## Remove .venv, runs and caches
	rm -rf .venv runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
