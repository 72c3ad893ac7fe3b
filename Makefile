# Two commands for users: `make demo` and `make test`. Both set up what is missing and can be run again.
python := .venv/bin/python
DEMO_HOME ?= .graft-demo
REPORT ?= $(DEMO_HOME)/report.json

.PHONY: demo test test-all fast lint types audit stubs setup lock clean

setup:
	@deploy/setup.sh cpu

demo: setup
	.venv/bin/graft demo --home $(DEMO_HOME) --report $(REPORT)

# What CI runs; about 20 minutes on 2 cores. `test-all` adds the long kills, outages and endurance: before a release.
test: setup lint types
	$(python) -m pytest -m "not thorough"

test-all: setup lint types
	$(python) -m pytest

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
