# Everything runs in .venv; nothing else has to be set up. `make help` lists the targets.

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo live test test-slow test-all lint types check docs clean
# test-all and check have an order.
.NOTPARALLEL:

DEMO := runs/demo
LIVE := runs/live

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/installed  ## Create .venv and install the project with its development tools

.venv/installed: pyproject.toml constraints.txt
	@echo "== install into .venv"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,evaluation,live]'
	@touch $@

demo: install  ## Write clips, attribute them, and draw the report: runs/demo
	@echo "== demo: write 60 clips of ten synthetic actions, with their ground truth"
	rm -rf $(DEMO)
	$(BIN)/python -m jobs.synthesize --out $(DEMO)/dataset --n-clips 60
	@echo "== demo: list them in a manifest"
	$(BIN)/python -m jobs.manifest --layout kinetics --annotations $(DEMO)/dataset/annotations.csv \
		--clips $(DEMO)/dataset/clips --out $(DEMO)/manifest.parquet
	@echo "== demo: attribute every clip, on a local Ray"
	$(BIN)/python -m jobs.attribute --config jobs/demo.yaml
	@echo "== demo: reduce to class statistics, and draw the report"
	$(BIN)/python -m jobs.aggregate $(DEMO)
	@echo "== demo: hold the attributions against the ground truth"
	$(BIN)/python -m jobs.evaluate $(DEMO) --ground-truth $(DEMO)/dataset/ground_truth.zarr
	@echo "== demo: audit a model that learnt shortcuts, and try what is found on it"
	$(BIN)/python -m jobs.synthesize --task shortcuts --n-clips 200 --seed 3 --out $(DEMO)/shortcuts \
		--width 128 --height 96 --fps 10 --min-duration-s 2 --max-duration-s 4
	$(BIN)/python -m jobs.manifest --layout kinetics \
		--annotations $(DEMO)/shortcuts/annotations.csv --clips $(DEMO)/shortcuts/clips \
		--out $(DEMO)/shortcuts.parquet
	$(BIN)/python -m jobs.attribute --serial --manifest $(DEMO)/shortcuts.parquet \
		--model pipeline/synthetic/checkpoints/shortcuts --sampling.kind uniform \
		--method.frame-importance gradient \
		--out $(DEMO)/shortcuts_run
	$(BIN)/python -m jobs.audit $(DEMO)/shortcuts_run --verify --proof.serial --most 3 \
		--report $(DEMO)/audit
	@echo
	@echo "clips         $(DEMO)/dataset/clips"
	@echo "attributions  $(DEMO)/attributions.zarr   in Python: analysis.open_run('$(DEMO)')"
	@echo "statistics    $(DEMO)/statistics.zarr     in Python: analysis.open_statistics('$(DEMO)')"
	@echo "report        open in a browser: file://$(CURDIR)/$(DEMO)/report/index.html"
	@echo "audit         open in a browser: file://$(CURDIR)/$(DEMO)/audit/index.html"

LIVE_SCENES := --width 128 --height 96 --fps 10 --min-duration-s 3 --max-duration-s 3
LIVE_MODEL := --model pipeline/synthetic/checkpoints/shortcuts --sampling.kind uniform --window 3s

live: install  ## Explain a stream as it plays, in a browser; after a minute a logo appears: runs/live
	@echo "== live: write four minutes of five actions; a logo appears after the first"
	rm -rf $(LIVE)
	$(BIN)/python -m jobs.synthesize --task shortcuts --stream 5min --seed 4 \
		--out $(LIVE)/usual $(LIVE_SCENES)
	$(BIN)/python -m jobs.synthesize --task shortcuts --stream 4min --planted-from 60s --seed 5 \
		--out $(LIVE)/camera $(LIVE_SCENES)
	@echo "== live: learn what is usual, from five minutes without a logo"
	$(BIN)/python -m jobs.live $(LIVE)/usual/stream.mp4 $(LIVE_MODEL) --fast --no-page.show \
		--out $(LIVE)/usual/sessions
	@echo "== live: play the four minutes; ctrl-C ends it sooner"
	$(BIN)/python -m jobs.live camera=$(LIVE)/camera/stream.mp4 $(LIVE_MODEL) \
		--out $(LIVE)/sessions --drift-against $(LIVE)/usual/sessions

# Two processes: one has all tests that start a Ray, the other the rest (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

test: install  ## Run the tests that take some minutes: every contract, each kind of fault once
	@echo "== tests"
	$(PYTEST) -m "not slow"

test-slow: install  ## Run the other tests: processes that die each time, lost nodes, compiled models
	@echo "== slow tests"
	$(PYTEST) -m slow $(if $(MINUTES),--minutes $(MINUTES))

test-all: test test-slow  ## Run every test

lint: install  ## Check style, format and the import contract
	@echo "== lint, format, imports"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install  ## Check types
	@echo "== types"
	$(BIN)/mypy

check: lint types test  ## What a change must pass; CI runs test-slow, too

docs: install  ## Build pages of the API from the docstrings: build/docs
	@echo "== docs"
	$(BIN)/python docs/build_api.py pipeline analysis jobs
	@echo "open in a browser: file://$(CURDIR)/build/docs/index.html"

clean:  ## Remove .venv, runs and caches
	rm -rf .venv runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
