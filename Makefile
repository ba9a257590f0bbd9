# make run    from a fresh clone to a verdict
# make locust the same mesh under Locust's web UI
# make bench  the hammer against other load tools
# make test   everything that guards the project: format, lint, types, import contracts, tests
# make cluster        a whole cluster with Istio on this machine, to try docs/cluster.md in
# make controlplane   what it and the cluster's tests are made of; built once, from Go modules
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
# The first interpreter that runs and is new enough; name another with: make PYTHON=python3.13 …
PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SCENARIO ?= scenarios/connection-pool.yaml

# Tests of what is late if anything else runs: each of them has the machine to itself.
ALONE := tests/hit

.PHONY: help install run locust test format lint types imports tests thorough controlplane cluster ledgers soak bench schema lock clean

help:  ## show this
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.run  ## make the environment; the command is then in .venv/bin

run: $(VENV)/.run  ## run the tutorial's scenario (or SCENARIO=…) to a verdict
	@$(BIN)/loadgen run $(SCENARIO)

locust: $(VENV)/.dev  ## the tutorial's mesh, and Locust's web UI for it, until ^C
	@setsid $(BIN)/loadgen up $(SCENARIO) & mesh=$$!; trap 'kill $$mesh 2>/dev/null; wait' EXIT; trap : INT TERM; \
		$(BIN)/locust -f locustfiles/user_service.py --mesh local --mesh-pid $$mesh

test: lint types imports tests  ## everything that guards the project

lint: $(VENV)/.dev  ## formatting and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev  ## types, strict
	$(BIN)/mypy

imports: $(VENV)/.dev  ## imports point one way
	$(BIN)/lint-imports

tests: $(VENV)/.dev $(if $(CI),controlplane)  ## the tests alone; without a control plane those of the cluster are skipped
	$(BIN)/python -m pytest -q -n 2 --no-loadscope-reorder $(ALONE:%=--ignore=%)
	$(BIN)/python -m pytest $(ALONE)

thorough: $(VENV)/.dev controlplane  ## what takes longer than the gate may
	$(BIN)/python -m pytest -m thorough

controlplane: $(VENV)/.dev  ## build what the tests of the cluster run against (root, Go, Debian; 15 minutes the first time)
	$(BIN)/python -m tests.cluster.controlplane.binaries

cluster: controlplane  ## a whole cluster with Istio on this machine, until ^C, to try docs/cluster.md in (root)
	@$(BIN)/python -m tests.cluster.serve

format: $(VENV)/.dev  ## rewrite the code as the formatter wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ledgers: $(VENV)/.run  ## N runs in a row; each must end VALID with every ledger at 0 (N=20)
	$(BIN)/python tests/bench/ledgers.py --runs $(or $(N),20)

soak: $(VENV)/.dev  ## N short runs drawn from a SEED, half of them with something amiss: no verdict may be wrong (N=300)
	$(BIN)/python -m tests.soak.run --runs $(or $(N),300) $(if $(SEED),--seed $(SEED))

bench: $(VENV)/.dev  ## CPU per request and lateness of every load tool that is installed (BENCH='--rounds 5 --path DIR')
	$(BIN)/python -m tests.bench.hammers $(BENCH)

schema: $(VENV)/.dev  ## renew the JSON Schema of the report in docs/
	$(BIN)/python -c 'import json; from loadgen.report import json_schema; print(json.dumps(json_schema(), indent=1))' > docs/report-v1.schema.json

lock: $(VENV)/.dev  ## renew the lock files from pyproject.toml
	$(PIP) install uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-annotate --no-emit-index-url \
		--custom-compile-command "make lock" --extra local --extra metrics --group build pyproject.toml -o requirements/run.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-annotate --no-emit-index-url \
		--custom-compile-command "make lock" --all-extras --group dev pyproject.toml -o requirements/dev.txt
	for group in build pod locust-pod; do \
		$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-annotate --no-emit-index-url \
			--custom-compile-command "make lock" --constraint requirements/dev.txt --group pyproject.toml:$$group -o requirements/$$group.txt || exit; \
	done

clean:  ## remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "loadgen needs Python 3.11 or later; none was found. Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/.run: requirements/run.txt pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "installing everything into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run
