# Each target sets up all it needs, in .venv; Python 3.10 or newer is all there must be.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help quickstart test test-fast lint benchmark clean

quickstart: $(INSTALLED)  ## train the example on flights, and show what it recorded
	$(BIN)/python examples/quickstart.py

test: $(INSTALLED)  ## all tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

test-fast: $(INSTALLED)  ## those of them that are quick, without Kafka and processes of their own
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m 'not slow and not kafka and not system'

lint: $(INSTALLED)  ## style, format, types and the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: $(INSTALLED)  ## throughput, overhead and memory
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/memory.py

$(INSTALLED): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=…")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(INSTALLED)

clean:  ## remove what the targets above have made
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .tox build runs *.egg-info

help:  ## these lines
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12
