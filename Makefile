# Two commands for users: `make demo` and `make test`. Both set up what is missing and can be run again.
python := .venv/bin/python
DEMO_HOME ?= .graft-demo
REPORT ?= $(DEMO_HOME)/report.json
MINUTES ?= 10
WORKERS ?= 2

.PHONY: demo test test-all chaos fast lint types audit stubs setup lock clean

setup:
	@deploy/setup.sh cpu

demo: setup
	.venv/bin/graft demo --home $(DEMO_HOME) --report $(REPORT)

# What CI runs; 28 minutes on 2 cores that others used too. `test-all` adds the long kills, outages and endurance: before a release.
# Two processes: live tests mostly wait. Which tests stay together says tests/sharing.py, so that each server is started once.
test: setup lint types
	$(python) -m pytest -m "not thorough" -n $(WORKERS) --no-loadscope-reorder

test-all: setup lint types
	$(python) -m pytest

# The whole system under load while processes die, the store goes away, the disk fills up and clocks jump. SEED repeats a run.
chaos: setup
	$(python) -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(KEEP),--keep $(KEEP))

fast: setup
	$(python) -m pytest -m "not slow and not s3"

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

types: setup
	.venv/bin/mypy

# Known vulnerabilities of what the lock files pin; needs the network, so it is no part of `make test`.
audit: setup
	deploy/audit.sh cpu
	deploy/audit.sh gpu

stubs: setup
	proto/generate.sh

lock:
	deploy/lock.sh

clean:
	rm -rf .venv .audit .graft-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
