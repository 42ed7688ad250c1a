# Everything a user or a developer runs. `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
# Arguments handed on to the job, for example: make study ARGS="study=smoke search.trials=2"
ARGS ?=
# A study's id or folder, for example: make report STUDY=default-20260301-090000
STUDY ?=
# Arguments handed on to pytest, for example: make test ARGS="tests/core -x"
PYTEST := $(BIN)/python -m pytest

# The MLflow UI, like a study, reports to nobody unasked
export MLFLOW_DISABLE_TELEMETRY ?= true

.PHONY: help setup study smoke explain report results test lint typecheck ui constraints pretrain gates clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not on the PATH; install Python 3.11 or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt install python3.11-venv" >&2; exit 2; }
	@echo "Installing the pinned dependencies into $(VENV) (some minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,text]'
	@touch $@

study: $(STAMP) ## Run the default few-shot study (ARGS="study=smoke" for others)
	$(BIN)/python jobs/tune_shots.py $(ARGS)

smoke: $(STAMP) ## Run the one-minute study
	$(BIN)/python jobs/tune_shots.py study=smoke $(ARGS)

explain: $(STAMP) ## Tell in words what a study will do (ARGS="study=shots")
	$(BIN)/python jobs/tune_shots.py --explain $(ARGS)

report: $(STAMP) ## Make a study's report from its folder (STUDY=<id>, ARGS="--target 0.5")
	@[ -n "$(STUDY)" ] || { echo "error: STUDY is not set; name a study's id or folder: make report STUDY=default-20260301-090000" >&2; exit 2; }
	$(BIN)/python jobs/report.py $(STUDY) $(ARGS)

results: $(STAMP) ## Make docs/results.md: all methods, both ways of decoding, ablations (an hour)
	$(BIN)/python benchmarks/results.py $(ARGS)

test: $(STAMP) lint typecheck ## Lint, check types and layers, and run the tests
	$(PYTEST) $(ARGS)

lint: $(STAMP) ## Check style, format and the layers of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

typecheck: $(STAMP) ## Check types (mypy --strict)
	$(BIN)/mypy

ui: $(STAMP) ## Open the MLflow UI on the local runs (http://127.0.0.1:5000)
	$(BIN)/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db --host 127.0.0.1 --port 5000

pretrain: $(STAMP) ## Pretrain the small SAM again (resumable; up to 90 minutes on two cores)
	$(BIN)/python jobs/pretrain_small_sam.py $(ARGS)

gates: $(STAMP) ## Measure the shipped small SAM against its gates
	$(BIN)/python jobs/pretrain_small_sam.py --gates

constraints: $(STAMP) ## Resolve the pinned dependencies again (pip-compile)
	$(BIN)/pip-compile --quiet --upgrade --strip-extras --extra dev --extra text --no-emit-index-url --no-emit-find-links --no-emit-options --no-annotate --no-header --output-file constraints.txt pyproject.toml

clean: ## Remove the environment and the caches, but no runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
