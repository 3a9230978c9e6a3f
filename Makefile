# `make run`: the main job on drawn films; `make test`: the quick tests. See README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup run test test-all lint bench up down lock

setup: $(STAMP)

# Made anew when the lock changes; a second call finds the stamp and installs nothing.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

run: setup
	$(BIN)/cxr train --data phantom --set data.size_px=224 --set training.epochs=20 \
		--set training.progressive=false --set explain.checked_films=12

test: setup
	$(BIN)/python -m pytest -m "not slow"

test-all: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/cxr bench train
	$(BIN)/cxr bench cache
	$(BIN)/cxr bench explain
	$(BIN)/cxr bench serve --data phantom:64
	$(BIN)/cxr bench epochs --set training.epochs=3
	$(BIN)/cxr bench growth --set data.size_px=64

up: setup
	$(BIN)/cxr up

down: setup
	$(BIN)/cxr down

# Pins only, no addresses: the lock serves any package index.
lock: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--fork-strategy fewest --no-header --no-annotate --upgrade --quiet -o requirements.lock
