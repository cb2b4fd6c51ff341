# Every target installs what it needs by itself: a machine with Python (3.11 or newer) and make is enough.
#   make demo      train and evaluate a variational auto-encoder on handwritten digits
#   make test      the test suite, without the checks that take minutes
#   make docs      the documentation, into docs/_build/html
#   make paper-quick   the paper's figures on the bundled digits, a page with pictures, in minutes
#   make help      all the targets
# Variables: PYTHON (that makes the environment), VENV (where), JOBS (test processes), PYTEST_ARGS, DEMO_ARGS,
#   FAULTS_ARGS, FUZZ_ARGS, PAPER_ARGS.
# Tests on data that is not in the package read the folder named by the environment variable PPVAE_DATA.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PYTEST_ARGS ?=
DEMO_ARGS ?=
FAULTS_ARGS ?=
FUZZ_ARGS ?=
PAPER_ARGS ?=
# Several test processes share the cores: one thread each.
OMP_NUM_THREADS ?= 1

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
PYTEST := OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-gpu faults fuzz check format docs picture paper paper-quick tables tables-quick bench clean distclean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' Makefile | awk -F@ '{ printf "%-18s %s\n", $$1, $$2 }'

# The stamp is younger than the files that say what is to be installed, or the installation is done again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ppvae needs Python 3.11 or newer; $(PYTHON) is not. Try: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
# For the Japanese vowels, a file of it: what it depends on (numba, an older pandas) is not needed.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --no-compile aeon
	@touch $@

install: $(STAMP) ## the environment alone

demo: $(STAMP) ## train and evaluate a VAE on handwritten digits, and write a report
	$(BIN)/ppvae demo $(DEMO_ARGS)

test: $(STAMP) ## the test suite
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: $(STAMP) ## the checks that take minutes (none selected, pytest's status 5, is no failure)
	$(PYTEST) -m slow --timeout 1800 $(PYTEST_ARGS) || [ $$? -eq 5 ]

test-gpu: $(STAMP) ## on a GPU: its own tests, and those of models, distributions and inference with all tensors there
	$(PYTEST) -n 0 tests/test_gpu.py $(PYTEST_ARGS)
	PPVAE_TEST_DEVICE=cuda $(PYTEST) -n 0 -m "not slow" tests/models tests/distributions tests/inference $(PYTEST_ARGS)

faults: $(STAMP) ## put deliberate faults into the files that compute numbers: does a test fail for each?
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/run.py $(FAULTS_ARGS)

fuzz: $(STAMP) ## ten minutes of damaged files: is each read, or refused with one clear error?
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py $(FUZZ_ARGS)

check: $(STAMP) ## linter, formatter, type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let the formatter write
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(DOCS_STAMP) ## the documentation, every warning an error
	OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

picture: $(STAMP) ## the picture of a report in the README, made again from the demo (needs Chromium)
	$(BIN)/python docs/picture.py

paper: $(STAMP) ## every figure of the paper, hours, resumable (needs MNIST and Frey faces, see PPVAE_DATA)
	$(BIN)/python -m reproductions $(PAPER_ARGS)

paper-quick: $(STAMP) ## the same on the bundled digits, in minutes: a page with pictures
	$(BIN)/python -m reproductions --quick $(PAPER_ARGS)

tables: $(STAMP) ## published tables of other papers, hours, resumable (needs data, see PPVAE_DATA)
	$(BIN)/python -m reproductions tables $(PAPER_ARGS)

tables-quick: $(STAMP) ## the same on small data, in minutes
	$(BIN)/python -m reproductions tables --quick $(PAPER_ARGS)

bench: ## list the side-by-side timings: run one with .venv/bin/python benchmarks/NAME.py
	@for file in $(wildcard benchmarks/*.py); do \
	  printf '%-36s ' "$$file"; sed -n '1s/^r*"""\(.*\)/\1/p;1q' "$$file" | sed 's/"""$$//'; done

clean: ## remove what tools left, not the environment
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build
	find ppvae tests benchmarks reproductions examples docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## remove the environment too
	rm -rf $(VENV)
