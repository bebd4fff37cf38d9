# Each target first makes the environment .venv, if it is not there or is out of date.
# What has to be there already: python3 (3.11 or newer) and make.

PYTHON ?= python3
DEMO ?= runs/demo
ARGS ?=

# The images of demo and tests are tiny: several threads would only wait for each other, and without end where another
# program keeps the cores busy.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

VENV := .venv
BIN := $(VENV)/bin
# Written last, so that a half-made environment is not taken for a whole one.
STAMP := $(VENV)/.complete
BENCHMARK := $(VENV)/.benchmark
RAY := $(VENV)/.ray

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-avalanche test-ray lint faults speed ablation

help:
	@echo 'make demo    learn the digits that come with scikit-learn; leaves $(DEMO)/report.html'
	@echo 'make test    run the tests; make test ARGS="-n 0 -k memory" passes options to pytest'
	@echo 'make lint    ruff and mypy'
	@echo 'make faults  kill runs, fill disks and damage files; make faults ARGS=--short tries some of each in a minute'
	@echo 'make test-avalanche  the tests of the Avalanche plugin, for which Avalanche is installed'
	@echo 'make test-ray  the tests of sweeps through Ray, which is installed for it'
	@echo 'make speed   measure how fast mnemo is beside its peers, which are installed for it; see benchmarks/README.md'
	@echo 'make ablation ARGS=FILE  methods beside each other at several budgets and seeds; see benchmarks/README.md'
	@echo 'make setup   only make the environment $(VENV) (PYTHON=python3.13 chooses the interpreter)'

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/mnemo run --out $(DEMO) --resume $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n auto $(ARGS)

test-avalanche: $(BENCHMARK)
	$(BIN)/python -m pytest tests/test_avalanche*.py $(ARGS)

test-ray: $(RAY)
	$(BIN)/python -m pytest tests/test_on_ray.py tests/test_sweep.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

faults: $(STAMP)
	$(BIN)/python -m benchmarks.faults $(ARGS)

speed: $(BENCHMARK)
	$(BIN)/python -m benchmarks.speed $(ARGS)

ablation: $(STAMP)
	$(BIN)/python -m benchmarks.ablation $(ARGS)

# uv does in half a minute what takes pip a few, but it does not read pip's settings. Where pip is told to look in a
# folder of wheels, such as one with a torch for CPUs, uv is told so too; and where uv finds no way, pip may. Modules
# are compiled at once, as pip does: where Python may not write, torch alone would be compiled for six seconds a start.
define install
@links=$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$$($(BIN)/python -m pip config get global.find-links 2>/dev/null)}}; \
if [ -n "$$links" ]; then export UV_FIND_LINKS="$$(echo $$links | tr ' ' ',')"; fi; \
set -x; \
$(BIN)/python -m pip install --quiet -c constraints.txt uv && \
$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]' || \
$(BIN)/python -m pip install -c constraints.txt -e '.[$(EXTRAS)]'
@touch $@
endef

$(STAMP): EXTRAS := dev
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	    echo 'mnemo needs Python 3.11 or newer; "$(PYTHON)" is not there. Choose another: make PYTHON=python3.13 ...' >&2; \
	    exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "mnemo needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	    echo 'Choose another: make PYTHON=python3.13 ...' >&2; \
	    exit 1; }
	rm -f $@
	$(PYTHON) -m venv $(VENV)
	$(install)

# Avalanche, which is also a peer of `make speed`, and much that they bring along: in the same environment, and only when it is asked for.
$(BENCHMARK): EXTRAS := dev,benchmark
$(BENCHMARK): $(STAMP)
	$(install)

# Ray, likewise.
$(RAY): EXTRAS := dev,ray
$(RAY): $(STAMP)
	$(install)
