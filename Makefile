# What each command promises is in README.md. All of them set up what they need; they work as root and as anybody.

VENV := .venv
READY := $(VENV)/.ready
SHELL_SCRIPTS := .ci/run $(wildcard bin/* deploy/*.sh deploy/*/*.sh deploy/*/*/*.sh)
# More than there are CPUs: most of a test's time is spent waiting for processes.
TEST_WORKERS ?= 4

# How many histories `make simulate` plays.
SEEDS ?= 1000

.PHONY: help setup demo demo-slurm demo-drmaa serve test test-quick simulate chaos crash check packages clean

help:
	@echo 'make demo        run one job through the portal, from the web form to the mail'
	@echo 'make demo-slurm  the same on a real Slurm of three nodes, which it sets up and takes away (root, Debian 12)'
	@echo 'make demo-drmaa  the same on a real Grid Engine, by DRMAA (root, Debian 12)'
	@echo 'make serve       serve on http://127.0.0.1:8080, data in ./data'
	@echo 'make test        all tests; as root it installs the Debian packages that they need'
	@echo 'make test-quick  the tests that need no servers, without the thorough ones: less than a minute'
	@echo 'make simulate    SEEDS=1000 histories in which everything goes wrong, played by a simulation'
	@echo 'make chaos       jobs on a real Slurm while everything is killed at random: MINUTES=10, SEED=… (root, Debian 12)'
	@echo 'make crash       kill each process at each step that it takes (root for Slurm); CRASH=--write puts the table into docs'
	@echo 'make check       linters, types, import rules'

setup: $(READY)

$(READY): pyproject.toml constraints.txt deploy/make_venv.sh
	@sh deploy/make_venv.sh
	@touch $@

demo: setup
	@$(VENV)/bin/python deploy/demo.py

demo-slurm: setup
	@$(VENV)/bin/python -m deploy.slurm.demo

demo-drmaa: setup
	@PYTHONPATH='$(CURDIR)' $(VENV)/bin/python deploy/grid-engine/demo.py

serve: setup
	@mkdir -p data
	@[ -e data/portal.toml ] || cp deploy/serve.toml data/portal.toml
	@exec $(VENV)/bin/portal --config data/portal.toml serve

test: setup packages
	$(VENV)/bin/pytest -n $(TEST_WORKERS) --dist loadgroup

test-quick: setup
	$(VENV)/bin/pytest -q -n 2 -m 'not daemon and not thorough'

simulate: setup
	$(VENV)/bin/python -m tests.simulation.run --seeds $(SEEDS)

# Each SEED is one plan of jobs and faults.
MINUTES ?= 10
chaos: setup packages
	$(VENV)/bin/python -m tests.chaos.run --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) \
	  $(if $(JOBS_PER_SECOND),--jobs-per-second $(JOBS_PER_SECOND))

# Some 600 kills: about 15 minutes with two CPUs. CRASH=--write puts the table into docs/crash-tests.md.
crash: setup packages
	$(VENV)/bin/python -m tests.crash $(CRASH)

check: setup packages
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/vermin -t=3.6- --no-tips --violations portal/node
	@if command -v shellcheck >/dev/null; then \
	   echo shellcheck $(SHELL_SCRIPTS); shellcheck $(SHELL_SCRIPTS); \
	 elif [ "$$CI" = true ]; then echo 'shellcheck is missing, which CI counts as a failure' >&2; exit 1; \
	 else echo 'Left out: shellcheck is not installed (as root, make check installs it)'; fi

# Only root can install Debian packages; everybody else runs what can be run.
packages:
	@if [ "$$(id -u)" = 0 ]; then sh deploy/install_test_packages.sh; fi

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
