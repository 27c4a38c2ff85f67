# One command for each task; `make help` lists them. Python 3.11 or later, make, and a package index are all it needs.

# The first one that is recent enough; the lock is tested with 3.11.
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(or $(shell for python in python3.11 python3.12 python3 python3.13; do \
            $$python -c '$(RECENT)' 2>/dev/null && echo $$python && break; done),python3)
VENV   ?= .venv
ONCE   ?=
UPGRADE ?=
PYTEST_ARGS ?=
COMPOSE ?=
VLLM    ?=
EXTRA   ?= serve

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
LINTED := $(wildcard benchmarks deploy gloss jobs ml proto schema server setup.py tests worker)

.DEFAULT_GOAL := help
.PHONY: help demo up test test-processes test-slow test-wheel test-zoo test-engine test-containers test-faults train-deps lint format proto contract-baseline \
        lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.serve ## Start Gloss on this machine, give a tour of it, and serve until Ctrl-C (ONCE=1: stop after the tour)
	@$(BIN)/python -m deploy.demo $(if $(filter-out 0 no false,$(ONCE)),--once)

up: $(VENV)/.$(EXTRA) ## Start Gloss on this machine and serve until Ctrl-C (EXTRA=engine: without torch)
	@$(BIN)/python -m deploy.stack

test: $(VENV)/.dev ## Run the tests, all but the slow ones (PYTEST_ARGS="-k lime")
	$(BIN)/python -m pytest -n 3 --dist loadfile $(PYTEST_ARGS)

test-processes: $(VENV)/.dev ## Run the tests that start, kill and stop whole processes
	$(BIN)/python -m pytest -m "processes and not slow" -n 2 --dist loadfile $(PYTEST_ARGS)

test-slow: $(VENV)/.dev ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-wheel: $(VENV)/.dev ## Build the wheel, and try it in an environment that has nothing else
	$(BIN)/python -m pytest -m wheel $(PYTEST_ARGS)

test-zoo: $(VENV)/.dev ## Run every verb and method on every architecture that transformers has, and write docs/models.md
	$(BIN)/python -m pytest -m zoo tests/zoo $(PYTEST_ARGS)
	$(BIN)/python -m tests.zoo.table

test-engine: $(VENV)/.dev ## Install a vLLM for this processor, and run the tests of served models against it (VLLM=FOLDER)
	VLLM="$(VLLM)" $(BIN)/python -m pytest -m engine $(PYTEST_ARGS)

test-containers: $(VENV)/.dev ## Build the image, run docker-compose.yml, and give a tour of it (COMPOSE="podman-compose")
	COMPOSE="$(COMPOSE)" $(BIN)/python -m pytest -m containers -s $(PYTEST_ARGS)

test-faults: $(VENV)/.dev ## Kill, starve and lie to real processes, and write docs/reliability.md
	$(BIN)/python -m pytest -m faults tests/faults $(PYTEST_ARGS); code=$$?; $(BIN)/python -m tests.faults.table; exit $$code

train-deps: $(VENV)/.train ## Install what training a model needs beside (docs/training.md)

lint: $(VENV)/.dev ## Check style, types, the direction of imports, and that the contract breaks nobody
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/contract.py check

format: $(VENV)/.dev ## Format the code, and fix what can be fixed without a decision
	$(BIN)/ruff format $(LINTED)
	$(BIN)/ruff check --fix $(LINTED)

proto: $(VENV)/.dev ## Regenerate gloss/v1 from proto/gloss/v1
	$(BIN)/python proto/generate.py

contract-baseline: $(VENV)/.dev ## Make the contract as it is the one that may not be broken (say so in CHANGELOG.md)
	$(BIN)/python proto/contract.py baseline

lock: $(VENV)/.dev ## Write requirements.lock from pyproject.toml (UPGRADE=1: the newest of everything)
	$(BIN)/python -m deploy.lock $(if $(UPGRADE),--upgrade)

clean: ## Remove everything that can be made again, the stack's data among it
	rm -rf $(VENV) .gloss build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(LINTED) -name __pycache__ -prune -exec rm -rf {} +

# Stamps: an environment is made once, and brought up to date when the project's dependencies change.

$(BIN)/python:
	@$(PYTHON) -c '$(RECENT)' 2>/dev/null || { \
	  echo "error: Gloss needs Python 3.11 or later, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "       Install one and name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' cannot make virtual environments. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.engine: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing the pinned dependencies without torch into $(VENV); the first time takes some minutes"
	@$(PIP) install -qq --disable-pip-version-check -c requirements.lock -e ".[engine]"
	@touch $@

$(VENV)/.serve: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing the pinned dependencies into $(VENV); the first time takes some minutes, most of them for torch"
	@$(PIP) install -qq --disable-pip-version-check -c requirements.lock -e ".[serve]"
	@touch $@ $(VENV)/.engine

$(VENV)/.train: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing the pinned dependencies of training into $(VENV); the first time takes some minutes"
	@$(PIP) install -qq --disable-pip-version-check -c requirements.lock -e ".[train]"
	@touch $@ $(VENV)/.serve $(VENV)/.engine

$(VENV)/.dev: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing the pinned dependencies and the tests' tools into $(VENV); the first time takes some minutes"
	@$(PIP) install -qq --disable-pip-version-check -c requirements.lock -e ".[dev]"
	@touch $@ $(VENV)/.serve $(VENV)/.engine $(VENV)/.train
