# `make demo` and `make test` set up everything they need in .venv; a second time this takes no time.

PYTHON ?= python3
PI_PYTHON ?= python3.11
VENV := .venv
PI_VENV := .venv-pi
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PI_INSTALLED := $(PI_VENV)/.installed
CRYPTEN_INSTALLED := $(VENV)/.installed-crypten

# On a busy machine two torch threads can be ten times slower than one for small tensors.
demo demo-pi test test-all test-slurm test-pi test-crypten: export OMP_NUM_THREADS ?= 1
# Some containers forbid Python's bytecode files; without them each process compiles the package and the tests again.
demo demo-pi test test-all test-slurm test-pi test-crypten: export PYTHONDONTWRITEBYTECODE =

# A process per core and one more, as some tests wait for programs that they start. Each has neighbouring tests, which share
# fixtures; whoever is done first takes over from the others.
WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n $(WORKERS) --maxprocesses=8 --dist=worksteal

.DEFAULT_GOAL := help
.PHONY: help setup pi crypten demo demo-pi test test-all test-gpu test-slurm test-pi test-crypten lint format bench clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'
	@echo "  PYTHON=python3.12 chooses the interpreter of the environment (3.11 or newer)."

setup: $(INSTALLED) ## .venv with the exact versions of requirements.lock, and this project in it

$(INSTALLED): requirements.lock pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "make: $(PYTHON) not found; give a Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: $(PYTHON) is $$($(PYTHON) --version 2>&1); relinearize needs 3.11 or newer: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# Bytecode of what trainings and reports import, made once: else every process of the tests compiles it at the same time.
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c "import relinearize.training.lightning, relinearize.report.report, sklearn.datasets"
	@touch $@

pi: $(PI_INSTALLED) ## .venv-pi, the environment of the engine that `relinearize infer` runs (1.3 GB)

$(PI_INSTALLED): requirements-pi.lock pyproject.toml
	@[ "$$(uname -s) $$(uname -m)" = "Linux x86_64" ] || { \
		echo "make: SecretFlow SPU has wheels for Linux on x86_64 only, and this is $$(uname -s) on $$(uname -m)" >&2; exit 1; }
	@command -v $(PI_PYTHON) > /dev/null || { echo "make: $(PI_PYTHON) not found; give a Python 3.11: make pi PI_PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PI_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: $(PI_PYTHON) is $$($(PI_PYTHON) --version 2>&1); relinearize needs 3.11 or newer: make pi PI_PYTHON=python3.11" >&2; exit 1; }
	$(PI_PYTHON) -m venv $(PI_VENV)
	@wanted="$$($(PI_VENV)/bin/python scripts/pi_requirements.py)" && \
		$(PI_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile $$wanted
	$(PI_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

crypten: $(CRYPTEN_INSTALLED) ## CrypTen in .venv: the engine of `relinearize infer engine=crypten`, on newer Python, too (3 MB)

# Its metadata asks for packages that pip cannot resolve, and what it needs is here already.
$(CRYPTEN_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps crypten==0.4.1
	@touch $@

demo: setup ## a mask search against random masks on real digits: table, figure and page (a minute)
	$(BIN)/relinearize run -m experiment=demo
	$(BIN)/relinearize report outputs/demo/runs

demo-pi: setup pi ## SNL's networks on the demo's images under two-party computation: accuracy, MB, latency (minutes)
	$(BIN)/python scripts/demo_pi.py --python $(PI_VENV)/bin/python

test: setup ## the test suite without its slow part
	$(PYTEST) $(PARALLEL)

test-all: setup ## the whole suite, the slow part too
	$(PYTEST) $(PARALLEL) -m "not gpu and not slurm"

test-gpu: setup ## the tests that need a CUDA device
	$(PYTEST) -m gpu

test-slurm: setup ## sweeps through a Slurm that the tests start here (root; apt-get install slurm-wlm munge)
	$(PYTEST) -m slurm -rs tests/slurm

test-pi: pi ## private inference under real two-party computation
	$(PI_VENV)/bin/python -m pytest --confcutdir=tests/private_inference/engine -m "not slow" tests/private_inference/engine

test-crypten: crypten ## the same under CrypTen
	$(PYTEST) tests/private_inference/engine/test_crypten.py

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## benchmarks: ratios measured in one run
	$(BIN)/python scripts/benchmark.py

clean: ## remove caches, builds and the demo's results; .venv and .venv-pi stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis outputs/demo
	find relinearize scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
