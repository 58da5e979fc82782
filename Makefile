# Everything that people and CI do here, by name. `make` alone prints the list.
#
# Nothing has to be set up first: a target that needs the environment makes it, once, and again when pyproject.toml
# changes. Settings: PYTHON=python3.12 (which interpreter), VENV=.venv (where), ARGS="-k conv" (passed on),
# JOBS=2 (how many processes test), TORCH_INDEX=URL (a package index of your own that holds torch).

VENV ?= .venv
ARGS ?=
JOBS ?= 2
export TORCH_INDEX PYTHON

.PHONY: help demo setup test test-all check fmt bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/core.stamp  ## transcribe a bundled recording of a person, with the time of each word
	$(VENV)/bin/earful transcribe --words --format tsv src/earful/builtin/demo.flac

setup: $(VENV)/dev.stamp  ## the environment for everything below

test: $(VENV)/dev.stamp  ## tests; ARGS="-k conv" picks some
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-all: $(VENV)/dev.stamp  ## the slow tests too, and those for a GPU where there is one
	$(VENV)/bin/python -m pytest -m "" $(ARGS)

check: $(VENV)/dev.stamp  ## format, lint, types, import contracts, forbidden words
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m tools.gate

fmt: $(VENV)/dev.stamp  ## format, and fix what can be fixed by machine
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(VENV)/dev.stamp  ## speed and memory beside transformers
	$(VENV)/bin/python -m benchmarks $(ARGS)

clean:  ## remove the environment and every cache
	rm -rf $(VENV) dist .hypothesis .import_linter_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/core.stamp: pyproject.toml tools/setup.sh
	sh tools/setup.sh $(VENV) "."
	@touch $@

$(VENV)/dev.stamp: pyproject.toml tools/setup.sh
	sh tools/setup.sh $(VENV) ".[dev,eval,train,voxtral]"
	@touch $(VENV)/core.stamp $@
