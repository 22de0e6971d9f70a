# Every target does its own set-up: Python ≥ 3.11 and make are all it takes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SMOKE  := build/smoke

.DEFAULT_GOAL := help
.PHONY: help install demo test check fix bench soak schema docs build smoke clean

help: ## What there is to make
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

install: $(STAMP) ## Make .venv with the project and its development tools

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Name another with PYTHON=…") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## The product on a generated sales team; leaves a workbook in demo/
	@$(BIN)/connector demo --out demo

test: $(STAMP) ## The tests
	@$(BIN)/python -m pytest -q -n auto -m 'not soak'

check: $(STAMP) ## Lint, types, import rules, generated files up to date
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python docs/generate.py --check

fix: $(STAMP) ## Format, and mend what ruff can
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .

bench: $(STAMP) ## Measure, side by side with what a user would use instead
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@$(BIN)/python -m bench

soak: $(STAMP) ## Long campaigns: fuzzing, kills, scale
	@$(BIN)/python -m pytest -q -n auto -m soak

schema docs: $(STAMP) ## Write the generated files: config/connector.schema.json and parts of docs/
	@$(BIN)/python docs/generate.py

build: $(STAMP) ## The wheel, in dist/
	@rm -rf dist
	@$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	@ls dist

smoke: build ## The wheel in a clean environment without development packages
	@rm -rf $(SMOKE) && $(PYTHON) -m venv $(SMOKE)/venv
	@$(SMOKE)/venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	@cd $(SMOKE) && PATH=$$PWD/venv/bin:$$PATH sh ../../tests/smoke.sh

clean: ## Remove what make made
	@rm -rf $(VENV) build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
