# Each target makes .venv when it is missing. Nothing but a Python package index is needed.
#   PYTHON       the interpreter that makes the environment (3.11 or newer)
#   TORCH_INDEX  an index of CPU builds of torch, for platforms whose default build carries CUDA; empty: the default index
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-deep lint bench clean install
.DELETE_ON_ERROR:

install: $(READY)

# torch first: asked for by another package it may arrive as a build of several gigabytes.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/tacit-fleet demo $(DEMO)

test: $(READY)
	$(BIN)/python -m pytest $(TESTS)

test-deep: $(READY)
	$(BIN)/python -m pytest -m deep --timeout 900 $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,bench]"
	$(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
