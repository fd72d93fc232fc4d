# Each target sets up all it needs, in .venv; Python 3.10 or newer is all there must be.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
# Three, since many tests wait for other processes; a worker takes a file, in the order of conftest.
IN_PARALLEL := --numprocesses 3 --dist loadscope --no-loadscope-reorder
ESLINT := tests/browser/node_modules/.bin/eslint
SCRIPTS := $(wildcard monolith_keras_metrics/insight/page/static/*.js) tests/browser/eslint.config.mjs

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-fast coverage lint docs benchmark browser clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(INSTALLED)  ## train a model on the flights and print its measures
	$(BIN)/python examples/quickstart.py

test: $(INSTALLED) browser  ## run all tests
	$(BIN)/python -m pytest $(IN_PARALLEL)

test-fast: $(INSTALLED)  ## run the quick ones, without Kafka, a browser and tests of whole processes
	$(BIN)/python -m pytest $(IN_PARALLEL) --numprocesses 2 -m 'not slow and not kafka and not browser and not system'

coverage: $(INSTALLED) browser  ## run all tests, and check that they reach enough of the package
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(IN_PARALLEL)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(INSTALLED) browser  ## check style, spelling, types, imports and documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if [ -x $(ESLINT) ]; then $(ESLINT) --config tests/browser/eslint.config.mjs $(SCRIPTS); \
	else echo "eslint is skipped: npm did not bring it" >&2; fi
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: $(INSTALLED)  ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

benchmark: $(INSTALLED)  ## measure overhead, throughput and memory
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/memory.py

browser:
	@tests/browser/set_up.sh

$(INSTALLED): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=…")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(INSTALLED)

clean:  ## remove everything that was built
	rm -rf .venv tests/browser/node_modules .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis .tox build runs *.egg-info
