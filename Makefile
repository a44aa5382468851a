# make quickstart: train a first SAE.  make check: lint, types, imports.  make test: the whole suite.
# make test-interop: other libraries' own loaders and trainers against ours.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart check test test-interop format clean

quickstart: $(STAMP)
	$(BIN)/python -m sae_lightning.train

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --quiet

# Against the other libraries, in an environment of their own (.interop) that is built when it is missing or outdated.
test-interop: $(STAMP)
	PYTHON=$(PYTHON) tests/interop/environment.sh .interop
	INTEROP_PYTHON=$(CURDIR)/.interop/bin/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/interop --quiet

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch goes first: asked for together with the rest, pip may take a newer build with gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; set PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,analysis,joblib,slurm]'
	@touch $@

clean:
	rm -rf $(VENV) .interop dist build
