# Two commands for a newcomer: `make demo` and `make test`. Everything they need they install themselves.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: setup demo check test lint unit clean lab-up lab-down
setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import ensurepip, venv' || { apt-get update -q && apt-get install -y -q python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable '.[dev]'
	touch $@

# A Redis with a connected client moves between two hosts on this machine, and the client tells what it saw. Needs root.
demo: setup
	$(VENV)/bin/python -m scenarios.demo

# Format, lint, types, direction of imports, and the tests of pure code; under a minute.
check: setup lint unit

lint: setup
	$(VENV)/bin/ruff format --check migrator agents scenarios tests
	$(VENV)/bin/ruff check migrator agents scenarios tests
	$(VENV)/bin/mypy
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

unit: setup
	$(VENV)/bin/pytest -m "not lab"

test: setup
	$(VENV)/bin/pytest

# Two hosts on this machine, alpha and beta, and a client's place; TOPOLOGY=file.toml for others. Needs root.
lab-up: setup
	$(VENV)/bin/python -m scenarios.lab up $(if $(TOPOLOGY),--topology $(TOPOLOGY))

lab-down: setup
	$(VENV)/bin/python -m scenarios.lab down $(if $(LAB),--name $(LAB))

clean:
	rm -rf $(VENV) build
