# The project's commands. `make demo` and `make test` need nothing but python3 (3.11 or later, with venv), git and make;
# with npm on the PATH the tests also run against a server that speaks the CouchDB protocol.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
POUCHDB := .pouchdb/node_modules/.bin/pouchdb-server
PICAS := .picas/bin/python

.PHONY: help demo test test-only lint types docs check format bench bench-setup clean setup

help:
	@echo "make demo    render fractals with a pilot on an embedded pool: pictures in demo/"
	@echo "make test    all tests, after setting up what they need"
	@echo "make check   tests, lint, types and the documentation: what CI runs"
	@echo "make docs    the documentation as web pages: docs/_build/index.html"
	@echo "make format  format the code"
	@echo "make bench   how fast apicas is here, on a file: see benchmarks/README.md for much more"
	@echo "make bench-setup  install the queues that benchmarks/ compares with, each in an environment of its own"

$(BIN)/apicas: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "apicas needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[uvloop,examples]'
	@touch $@

$(VENV)/.dev: $(BIN)/apicas
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

# pouchdb-server is an independent server that speaks CouchDB's protocol. Its install scripts are not needed.
$(POUCHDB):
	@if command -v npm >/dev/null 2>&1; then \
		echo "installing pouchdb-server for the tests"; \
		npm install --prefix .pouchdb --ignore-scripts --no-audit --no-fund --silent pouchdb-server@4.2.0 \
			|| echo "npm could not install it: the tests of the CouchDB client are skipped"; \
	else echo "no npm: the tests of the CouchDB client are skipped"; fi

# PiCaS itself, in an environment of its own: the tests show that both work on one pool.
$(PICAS):
	@$(PYTHON) -m venv .picas
	@.picas/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		picas==1.1.2 CouchDB==1.2 stopit==1.1.2 'setuptools<81' \
		|| { rm -rf .picas; echo "PiCaS could not be installed: its tests are skipped"; }

setup: $(VENV)/.dev $(POUCHDB) $(PICAS)

demo: $(BIN)/apicas
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python examples/fractals/demo.py demo

test: setup test-only

test-only:
	$(BIN)/python -m pytest -n auto --maxprocesses 4

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

$(VENV)/.docs: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	@touch $@

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs docs/_build

check: test lint types docs

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m benchmarks run

# What apicas is measured beside. A peer that is not there is skipped by `python -m benchmarks`, with a word.
bench-setup: setup
	$(BIN)/python -m benchmarks.contenders.setup

clean:
	rm -rf $(VENV) .pouchdb .picas .bench demo docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
