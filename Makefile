# make train: what a teacher gives a student of few labels; ARGS are another run's overrides. make test: the tests. make check: formatting rules, types and tests.
# make test-cuda: the tests that need a CUDA device, which make test skips: it hides GPUs, since its runs are for the CPU.
# make test-lowest: the tests with the lowest versions that pyproject.toml allows, in a virtual environment of their own.
# make results: the experiments on fresh seeds, into RESULTS.md. make docs: the pages, into build/site; a test builds them too.
# The tests run in WORKERS processes; make test ARGS="-n 0 -k WORD" runs the chosen ones in one.
# make fuzz: every loss at the edges of its inputs, and 2,000 malformed configurations, with counts.
# make hostile: folders, configurations and files made to harm, each of which must be refused, with their count.
# make kills: runs of two processes, sweeps, calibrations, teachers' caches and two runs at once, interrupted and killed at
# random moments, against runs that were left alone, with counts.
# make mutants: plausible mistakes, put into a copy of the package one at a time, and which of them the tests notice.
# The first of them makes a virtual environment in $(VENV); later ones use it, and install again when the project's
# requirements change.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
EXTRAS ?= dev,multi_label
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.PHONY: train results test test-cuda test-lowest check fuzz hostile kills mutants docs install clean

train: $(INSTALLED)
	$(BIN)/python recipes/train.py $(or $(ARGS),experiment=few_labels)

results: $(INSTALLED)
	$(BIN)/python recipes/results.py $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-cuda: $(INSTALLED)
	$(BIN)/python -m pytest -n 0 -m cuda $(ARGS)

# Versions of that age warn of each other. river, of multi_label, asks for a newer NumPy than the library does.
test-lowest:
	mkdir -p build
	$(PYTHON) -m tests.lowest > build/lowest.txt
	PIP_CONSTRAINT=$(abspath build/lowest.txt) $(MAKE) test VENV=$(VENV)-lowest EXTRAS=dev \
	  ARGS="-W default::DeprecationWarning -W default::FutureWarning $(ARGS)"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz $(ARGS)

hostile: $(INSTALLED)
	$(BIN)/python -m tests.hostile $(ARGS)

kills: $(INSTALLED)
	$(BIN)/python -m tests.kills $(ARGS)

mutants: $(INSTALLED)
	$(BIN)/python -m tests.mutants $(ARGS)

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

install: $(INSTALLED)

# Touched last: an installation that was interrupted is done again.
$(INSTALLED): pyproject.toml setup.py
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'Python 3.11 or later is needed; say which by PYTHON=...'"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install --editable ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest
