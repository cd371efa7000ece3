# From a fresh clone every target sets itself up: it needs Python 3.11+ and make.
#   make test PYTHON=python3.12    another interpreter for the environment
#   make test PYTEST_ARGS="-x -k Proximal"
#   make federated FEDERATED_ARGS="my_package.task --clients 10 --engine flower"

PYTHON ?= python3
PYTEST_ARGS ?= -n 2 --dist worksteal

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo federated test test-all lint format docs bench clean distclean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' \
		$(MAKEFILE_LIST)

demo: $(STAMP) ## Compare penalties on real data; writes demo/report.html
	$(BIN)/python -m kerasreg.demo

federated: $(STAMP) ## Train a task across simulated clients, with Flower
	$(BIN)/python -m federated $(FEDERATED_ARGS)

test: $(STAMP) ## Run all tests, doctests, examples and the manual's code
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-all: $(STAMP) ## Run further cases of the same checks, too
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "exhaustive or not exhaustive"

lint: $(STAMP) ## Check formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## Format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP) ## Build the manual into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP) ## Run every benchmark (benchmarks/*/run.py)
	$(BIN)/python -m benchmarks

clean: ## Remove what the other commands wrote, keep the environment
	rm -rf build dist site demo .pytest_cache .ruff_cache .mypy_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print \
		| xargs rm -rf

distclean: clean ## Remove the environment as well
	rm -rf $(VENV)

# One environment serves every target; it follows pyproject.toml.
$(STAMP): pyproject.toml
	@test -x $(BIN)/pip || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
			"kerasreg needs Python 3.11 or newer: make PYTHON=python3.12")' && \
		$(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@
