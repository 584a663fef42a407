# `make all` and `make test` do everything on a machine that has Python 3.11 or later, make and git.
SHELL := /bin/bash
PYTHON ?= python3
CORES ?= all
LIMIT ?= 7d
KILL_AFTER ?= 5m
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Compiled modules are worth seconds to every command of the pipeline.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup all cluster-all test test-slow test-gpu test-cluster lint docs format report lock push pull dvc.yaml schemas clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z.-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## Create .venv from requirements.lock

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; run make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	touch $@

all: setup ## Fetch, shard, train, evaluate, report: results/report.html
	snakemake --cores $(CORES) all
	@echo "open results/report.html"

cluster-all: setup ## The same on SLURM (docs/how-to/cluster.md), for LIMIT=7d at most
	@SNAKEMAKE_PROFILE=profiles/slurm timeout --foreground --signal=INT --kill-after=$(KILL_AFTER) $(LIMIT) snakemake all || { \
	code=$$?; case $$code in 124|137) echo "error: not done within $(LIMIT); \`make cluster-all\` continues" >&2;; esac; exit $$code; }

test: setup ## Run the tests
	pytest -n 3 --dist worksteal

test-slow: setup ## Run the tests that take minutes: every pair of workers, 25 kills, the documents' scale
	pytest -n 3 --dist worksteal -m slow

test-gpu: setup ## Run the tests that need a CUDA device; with WRITE=--write-docs their digests go to docs/records/gpu.md
	pytest -m gpu $(WRITE) tests/gpu
	@echo "$(if $(WRITE),digests: docs/records/gpu.md,no digests were written; make test-gpu WRITE=--write-docs puts them into docs/records/gpu.md)"

test-cluster: setup ## Install Debian's slurm and munge (as root), start a cluster on this machine, run the tests on it
	tests/cluster/slurm.sh run pytest -n 3 --dist loadfile -m cluster tests/cluster

lint: setup ## Check style, types, layers, workflow and the links of the documentation
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	snakefmt --check Snakefile workflow
	snakemake --lint
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --site-dir .work/site

docs: setup ## Build the documentation: site/index.html, which opens offline
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	@echo "open site/index.html"

format: setup ## Format code and workflow
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

push: setup ## Send what dvc.lock names to the remote (docs/how-to/remotes.md)
	@glassworks push

pull: setup ## Bring it from there, results/report.html included
	@glassworks pull

dvc.yaml: setup ## Compile dvc.yaml from the stage table
	glassworks dvc-yaml

schemas: setup ## Write the JSON Schemas of the configuration
	glassworks schemas

lock: setup ## Resolve requirements.lock anew from pyproject.toml
	uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --all-extras --python-version 3.11 pyproject.toml -o requirements.lock

clean: ## Remove what stages made (not the DVC cache)
	rm -rf .work .snakemake data features models results provenance logs
