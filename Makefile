# Every target does its own set-up: a virtual environment in .venv with the pinned set of constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
BENCHES := curate scale dedup tokenize train serve eval attribution editors platform

# For tests only: a browser, editors, and toolchains of the languages whose programs the sandbox runs.
SYSTEM_PACKAGES := chromium chromium-driver g++ default-jdk-headless nodejs node-typescript golang-go rustc php-cli \
	ruby ruby-test-unit perl libtest-deep-perl lua5.4 lua-unit golang-github-stretchr-testify-dev \
	vim neovim emacs-nox tmux curl prometheus

# Clients that tests run unmodified against the server, and editors and what drives them, in environments of their own.
CLIENTS := tests/serve_apps/clients
EDITORS := tests/serve_apps/editors
DOORS := tests/serve_apps/api $(EDITORS)
MODELS := tests/serve_apps tests/train_jobs
CLIENTS_STAMP := .venv-clients/.installed-$(shell cat $(CLIENTS)/requirements.txt $(CLIENTS)/package-lock.json \
	$(EDITORS)/package-lock.json | cksum | cut -d' ' -f1)

.PHONY: system setup clients editor-pictures quickstart lint format docs clean test test-data test-models test-all \
	check check-data check-models bench $(addprefix bench-,$(BENCHES))

setup: $(STAMP)

$(STAMP):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	rm -f $(VENV)/.installed-*
	touch $@

system:
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		missing=$$(for name in $(SYSTEM_PACKAGES); do dpkg -s $$name >/dev/null 2>&1 || echo $$name; done); \
		if [ -n "$$missing" ]; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing \
				|| echo "make system: apt-get failed; tests that need these are skipped: $$missing"; \
		fi; \
	else echo "make system: no apt-get or no rights for it; install by hand: $(SYSTEM_PACKAGES)"; fi

clients: $(CLIENTS_STAMP)

$(CLIENTS_STAMP):
	test -x .venv-clients/bin/python || $(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install --quiet --no-deps --no-compile -r $(CLIENTS)/requirements.txt
	@if command -v npm >/dev/null; then \
		for folder in $(CLIENTS) $(EDITORS); do npm ci --prefix $$folder --silent --no-audit --no-fund --ignore-scripts; done; \
	else echo "make clients: no npm; tests of its clients and editors are skipped"; fi
	rm -f .venv-clients/.installed-*
	touch $@

quickstart: setup
	$(BIN)/starloom run platform/recipes/quickstart.toml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two parts of about the same length, run side by side by `make -j2 test`: each waits for processes half of its time.
OTHERS := $(filter-out $(MODELS),$(patsubst %/,%,$(wildcard tests/*/)))

test: test-data test-models

test-data: setup clients
	$(BIN)/python -m pytest -q $(OTHERS) $(DOORS)

test-models: setup clients
	$(BIN)/python -m pytest -q $(MODELS) $(addprefix --ignore=,$(DOORS))

# also what CI leaves out: every combination of settings in training
test-all: export STARLOOM_ALL_TESTS = 1
test-all: test

# what a change should pass before it is shown to others
check: lint
	$(MAKE) --no-print-directory -j2 --output-sync=target check-data check-models

check-data: setup
	$(BIN)/python -m pytest -q -m "not slow" $(OTHERS)

check-models: setup
	$(BIN)/python -m pytest -q -m "not slow" $(MODELS)

# the parts of the pages that the code itself tells
docs: setup
	$(BIN)/python -m tests.docs.rooms
	$(BIN)/python -m tests.docs.commands
	$(BIN)/python -m tests.docs.fields

# pictures of each editor with the plugin, for serve_apps/editors/README.md
editor-pictures: setup clients
	$(BIN)/python -m tests.serve_apps.editors.pictures

bench: $(addprefix bench-,$(BENCHES))

$(addprefix bench-,$(BENCHES)): bench-%: setup
	$(BIN)/python -m tests.benchmarks.bench_$*

clean:
	rm -rf runs .bench .pytest_cache .mypy_cache .ruff_cache
