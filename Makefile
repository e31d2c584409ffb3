# Every target does its own set-up: a virtual environment in .venv with the pinned set of constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
BENCHES := curate dedup tokenize train serve eval

.PHONY: setup quickstart test lint bench clean $(addprefix bench-,$(BENCHES))

setup: $(STAMP)

$(STAMP):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	rm -f $(VENV)/.installed-*
	touch $@

quickstart: setup
	$(BIN)/starloom run platform/recipes/quickstart.toml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup
	$(BIN)/python -m pytest -q tests

bench: $(addprefix bench-,$(BENCHES))

$(addprefix bench-,$(BENCHES)): bench-%: setup
	$(BIN)/python -m tests.benchmarks.bench_$*

clean:
	rm -rf runs .bench .pytest_cache .mypy_cache .ruff_cache
