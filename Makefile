# Two commands for a newcomer: `make demo` and `make test`. Everything they need they install themselves.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: setup demo demo-vserver check test test-vm lint unit faults bench overhead clean lab-up lab-down
setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import ensurepip, venv' || { apt-get update -q && apt-get install -y -q python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable '.[dev]'
	touch $@

# A Redis with a connected client moves between two hosts on this machine, and the client tells what it saw. Needs root.
demo: setup
	$(VENV)/bin/python -m scenarios.demo

# A Linux-VServer guest with 50,000 awkward files moves, and every one of them is compared. Needs root.
demo-vserver: setup
	$(VENV)/bin/python -m scenarios.demo_vserver

# Format, lint, types, direction of imports, and the tests of pure code; under a minute.
check: setup
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint unit

lint: setup
	$(VENV)/bin/ruff format --check migrator agents scenarios tests
	$(VENV)/bin/ruff check migrator agents scenarios tests
	$(VENV)/bin/mypy
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

unit: setup
	$(VENV)/bin/pytest --numprocesses=2 -m "not lab and not vm and not slow"

test: setup
	$(VENV)/bin/pytest -m "not vm"

# The tests that need a kernel other than this machine's: two virtual machines, emulated where KVM does not work.
test-vm: setup
	$(VENV)/bin/pytest -m vm tests/vm

# Real migrations, one real fault in each; ends with `N runs, M breaches`. SEED= repeats a series, RUNS= says how many,
# ONLY="FAULT@MOMENT" one kind, WORKERS= labs at a time.
faults: setup
	$(VENV)/bin/python -m scenarios.faults $(if $(SEED),--seed $(SEED)) $(if $(RUNS),--runs $(RUNS)) \
		$(if $(ENGINE),--engine $(ENGINE)) $(if $(ONLY),--only "$(ONLY)") \
		$(if $(WORKERS),--workers $(WORKERS))

# Our migration against runc and Podman on the same hosts. RUNS= of each way, WAYS= comma between, FULL=1 long series.
bench: setup
	$(VENV)/bin/python -c 'import matplotlib' 2>/dev/null || $(VENV)/bin/pip install --quiet --editable '.[bench]'
	$(VENV)/bin/python -m scenarios.bench $(if $(RUNS),--runs $(RUNS)) $(if $(WAYS),--ways $(WAYS)) $(if $(FULL),--full)

# What the blackout of the demo's move is made of, by medians. RUNS= moves, AGAINST= another checkout to take turns with.
overhead: setup
	$(VENV)/bin/python -m scenarios.overhead $(if $(RUNS),--runs $(RUNS)) $(if $(AGAINST),--against $(AGAINST))

# Two hosts on this machine, alpha and beta, and a client's place; TOPOLOGY=file.toml for others, FLAVOUR=vm for
# virtual machines with Debian's own kernel, LAB= for another name. Needs root.
lab-up: setup
	$(VENV)/bin/python -m scenarios.lab up $(if $(TOPOLOGY),--topology $(TOPOLOGY)) $(if $(FLAVOUR),--flavour $(FLAVOUR)) \
		$(if $(LAB),--name $(LAB))

lab-down: setup
	$(VENV)/bin/python -m scenarios.lab down $(if $(LAB),--name $(LAB))

clean:
	rm -rf $(VENV) build
