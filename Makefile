# Works from a fresh clone on a machine with Python 3.11, make and git: uv goes to .tools, everything
# else to .venv, both in this directory.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON := $(shell for python in python3.11 python3 python; do \
	if $$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; \
	then command -v $$python; break; fi; done)
UV := .tools/bin/uv
BIN := .venv/bin
# Newer than what it was made from: the environment is as the lock says.
SYNCED := .venv/.synced
WITHOUT_COMPONENTS := not kafka and not elasticsearch and not vllm and not prometheus and not slow

# Our own modules are compiled once, too.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run demo-loop test fast check soak up down audit

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 18

run: $(SYNCED) ## Real PubMed records through every stage, and a look at what came out
	$(BIN)/kailin demo

demo-loop: $(SYNCED) ## The learning loop once around, from empty tables, in half an hour
	$(BIN)/kailin --config infra/demo_loop.toml demo-loop

test: check ## Static checks and all tests
	$(BIN)/pytest

fast: check ## Static checks and the tests that need no component, in a minute
	$(BIN)/pytest -q -m "$(WITHOUT_COMPONENTS)"

check: $(SYNCED) ## Static checks: style, types, the arrows between the packages, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@# An advisory may come any day, and is no fault of what is checked: `make audit` fails on it.
	@.ci/audit || true

audit: $(SYNCED) ## Known vulnerabilities of the locked packages, where osv.dev can be reached
	@.ci/audit

# What is to be other than by default: make soak SOAK="--records 5000 --calm 10 --seed 7"
SOAK :=

soak: $(SYNCED) ## Some hours: 100 faults on 50,000 records, a calm one, a burst, 100,000 mutants
	MUTANTS=100000 $(BIN)/pytest -q tests/streams/test_mutated_messages.py \
		tests/infra/test_mutated_files.py
	$(BIN)/python tests/bench/soak.py $(SOAK)

up: $(SYNCED) ## Start the service in the background
	$(BIN)/kailin up --detach

down: $(SYNCED) ## Stop it
	$(BIN)/kailin down

$(SYNCED): pyproject.toml requirements.lock | $(UV)
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	@# Where this is left to the first import, and PYTHONDONTWRITEBYTECODE is set as images do, every
	@# process compiles a thousand modules anew: a stage starts in half the time, vLLM in a third.
	$(UV) pip sync --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

$(UV):
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed and none was found on PATH as" \
		"python3.11, python3 or python: install it and run make again." >&2; exit 1; }
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet uv
