# The two commands: `make run` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
PATHS := msgweb apps workers tests bench manage.py

.DEFAULT_GOAL := help
.PHONY: help run demo test check format bench flat lock venv venv-dev clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 16

run: venv  ## Start everything on this machine; Ctrl-C stops it
	@exec $(VENV_PYTHON) -m msgweb.launcher run

demo: venv  ## Start a temporary installation, clone a brand over STOMP, show the result, stop
	@exec $(VENV_PYTHON) -m msgweb.launcher demo

test: venv-dev  ## Run the tests on two to four cores (ARGS="tests/unit -k frames" for some of them, ARGS="-n 0" in one process)
	@exec $(VENV_PYTHON) -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

check: venv-dev  ## Format, lint, types, layers, Django's checks, missing migrations, deployment files
	$(VENV_PYTHON) -m ruff format --check $(PATHS)
	$(VENV_PYTHON) -m ruff check $(PATHS)
	$(VENV_PYTHON) -m mypy
	PYTHONPATH=. .venv/bin/lint-imports
	MSGWEB_SECRET_KEY=check $(VENV_PYTHON) manage.py check --fail-level WARNING
	MSGWEB_SECRET_KEY=check $(VENV_PYTHON) -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: venv-dev  ## Format the code and fix what the linter can fix
	@$(VENV_PYTHON) -m ruff format $(PATHS)
	@$(VENV_PYTHON) -m ruff check --fix $(PATHS)

.PHONY: chaos
chaos: venv-dev  ## Random runs with kills, checked against what is promised (ARGS="--runs 1000 --seed 7 --minutes 30")
	@exec $(VENV_PYTHON) -m tests.chaos $(ARGS)

.PHONY: fuzz
fuzz: venv-dev  ## Fuzz the STOMP parser for three minutes (ARGS="--seconds 600 --grow /tmp/corpus")
	@exec $(VENV_PYTHON) -m tests.fuzz $(ARGS)

.PHONY: attack
attack: venv-dev  ## Attack a gateway in a dozen ways, and print what a customer beside it and its memory had of it (ARGS="header")
	@exec $(VENV_PYTHON) -m tests.attack $(ARGS)

.PHONY: test-django kept
test-django: venv-dev  ## The tests of Django's Tasks on Django 6.0 and 6.1 (needs Python 3.12)
	@exec $(VENV_PYTHON) -m tests.django_versions $(ARGS)

kept: venv-dev  ## Measure what a million jobs that have ended cost (ARGS)
	@exec $(VENV_PYTHON) -m bench.kept $(ARGS)

bench: venv-dev  ## Measure the broker (ARGS for its options)
	@exec $(VENV_PYTHON) -m bench $(ARGS)

flat: venv-dev  ## Measure what a message costs when a million wait, and under an old transaction (ARGS)
	@exec $(VENV_PYTHON) -m bench.flat $(ARGS)

lock: venv-dev  ## Compile requirements*.in into the pinned requirements*.txt
	@$(VENV_PYTHON) -m uv pip compile --quiet --universal --python-version 3.11 --no-header requirements.in -o requirements.txt
	@$(VENV_PYTHON) -m uv pip compile --quiet --universal --python-version 3.11 --no-header requirements-dev.in -o requirements-dev.txt

venv:
	@$(PYTHON) msgweb/bootstrap.py requirements.txt

venv-dev:
	@$(PYTHON) msgweb/bootstrap.py requirements.txt requirements-dev.txt

clean:  ## Remove the virtual environment and caches; data in .msgweb stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
