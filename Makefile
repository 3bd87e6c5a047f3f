# Everything runs in .venv; nothing else has to be set up. `make help` lists the targets.

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install test lint types check clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/installed  ## Create .venv and install the project with its development tools

.venv/installed: pyproject.toml constraints.txt
	@echo "== install into .venv"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

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
