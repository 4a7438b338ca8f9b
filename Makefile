# make demo · make test · make lint · make laws · make soak · make bench ·
# make accelerator · make parity · make trackers · make docs. Needs make and Python >= 3.11 with venv;
# everything else is installed into .venv from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/xla

.PHONY: demo test laws soak bench accelerator parity trackers lint docs lock clean

demo: .venv/ready
	$(BIN)/jssl demo --workdir=runs/demo

test: .venv/ready
	$(BIN)/python -m pytest -n 2 tests

# All tests: every law over every recipe, every example of the docs, the walk of a user (two hours).
# `make test` takes a few laws whose states differ in kind, and one test of each mechanism.
laws: .venv/ready
	JSSL_LAWS=all $(BIN)/python -m pytest -n 2 tests

# A run killed at a hundred random moments (half an hour).
soak: .venv/ready
	$(BIN)/python benchmarks/soak.py --kills=100 --out=benchmarks/results

# Steps and reading of data on this CPU, beside PyTorch where PEER names a Python that has it (an hour).
PEER ?= python3
bench: .venv/ready
	$(BIN)/python benchmarks/beside.py --cpu --peer-python=$(PEER) --out=benchmarks/results
	$(BIN)/python benchmarks/input.py --peer-python=$(PEER) --out=benchmarks/results/input-cpu.json
	$(BIN)/python benchmarks/report.py

# What the accelerator of this machine does, in nine minutes: docs/guides/accelerator.md. It runs with
# the packages that are here: requirements.lock holds no JAX for GPUs.
accelerator:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/accelerator.py $(ARGS)

# Encoders of real size against timm, torchvision and transformers 5 and 4, which are installed into
# environments of their own (half an hour and 6 GB).
parity: .venv-parity5/ready .venv-parity4/ready
	.venv-parity5/bin/python benchmarks/parity.py --out=benchmarks/results/parity-5.json
	.venv-parity4/bin/python benchmarks/parity.py --out=benchmarks/results/parity-4.json
	$(BIN)/python benchmarks/report.py

.venv-parity%/ready: requirements.lock
	$(PYTHON) -m venv .venv-parity$*
	.venv-parity$*/bin/python -m pip install --quiet -r requirements.lock torch torchvision timm
	.venv-parity$*/bin/python -m pip install --quiet 'transformers>=$*,<$(shell expr $* + 1)'
	.venv-parity$*/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

# The tests that write with W&B, MLflow and TensorBoard themselves, which are installed into an
# environment of their own (minutes). The tests use no network.
trackers: .venv-trackers/ready
	.venv-trackers/bin/python -m pytest tests/training/test_trackers.py

.venv-trackers/ready: requirements.lock
	$(PYTHON) -m venv .venv-trackers
	.venv-trackers/bin/python -m pip install --quiet -r requirements.lock
	.venv-trackers/bin/python -m pip install --quiet wandb 'mlflow>=3' tensorboard
	.venv-trackers/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

# The documentation site, in build/site. `make test` checks the examples of the pages, and does not build
# the site: the packages of the extra `docs` are not part of requirements.lock. They go into .venv and
# not into an environment of their own, because the notebooks need JAX and all of jssl there; the
# constraint keeps the locked versions.
docs: .venv/docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/docs-ready: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[docs]'
	@touch $@

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jssl needs Python >= 3.11; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

# The exact versions of today, for every Python that pyproject.toml allows.
lock:
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra test --upgrade \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	  pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv .venv-parity4 .venv-parity5 .venv-trackers .cache build *.egg-info
