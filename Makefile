# Every target sets up what it needs in .venv; a second run takes seconds.
#   make demo          train on real digits, convert for every engine, validate, benchmark, report
#   make test          lint and the whole test suite
#   make lint          ruff, mypy --strict, import layers
#   make bench         the benchmarks, each prints JSON; minutes. FULL=1: all networks and peers; hours
#   make conformance   every operator case through every engine, its table, and many random graphs
#   make clean         remove .venv and what was built
# PYTHON=python3.12 picks another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# two -q: the chatter and the warnings of pip are silent, its errors are not
PIP := $(BIN)/python -m pip --disable-pip-version-check -q -q
PACKAGES := $(VENV)/.packages
TOOLS := $(VENV)/.tools

.PHONY: setup demo test lint bench conformance clean
.DELETE_ON_ERROR:

setup: $(TOOLS)

# What converting, validating and benchmarking need. Torch goes first and pinned: a bare `torch` can bring a
# CUDA build of several gigabytes. Their data packages bring no dependencies of their own.
$(PACKAGES): pyproject.toml constraints.txt tests/data-requirements.txt
	@echo "setting up $(VENV) (the first time takes a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt "$$(grep '^torch==' constraints.txt)" hatchling editables
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[all]'
	@$(PIP) install --no-deps -r tests/data-requirements.txt
	@touch $@

# Tests read Keras and TensorFlow models, too. tf-keras would bring a second TensorFlow beside tensorflow-cpu.
$(TOOLS): $(PACKAGES)
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[test]'
	@$(PIP) install --no-deps "$$(grep '^tf-keras==' constraints.txt)"
	@touch $@

demo: $(PACKAGES)
	@$(BIN)/python examples/digits/demo.py

lint: $(TOOLS)
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: lint
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -q -m "not conformance"

# Prints the table of refused cases and writes it, with every outcome, to tests/conformance. A case that was ok
# and is refused now fails; ACCEPT=1 writes the files all the same.
conformance: $(TOOLS)
	@$(BIN)/python tests/support/conformance_table.py $(if $(ACCEPT),--accept)
	@$(BIN)/python tests/support/conformance_int8.py
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -q -m conformance

bench: $(TOOLS)
	@set -e; for file in benchmarks/*.py; do \
	  quick=; if [ -z "$(FULL)" ] && grep -q -e '"--quick"' "$$file"; then quick=--quick; fi; \
	  echo "== $$file $$quick" >&2; $(BIN)/python "$$file" $$quick; \
	done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
