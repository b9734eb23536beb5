# make demo and make test need nothing but Python 3.11 or newer: each creates
# .venv where there is none and installs into it.

PYTHON ?= python3
BIN := .venv/bin
# One thread is fastest on small molecules, and the tests' timings assume it.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow lint format clean

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt "torch==2.13.0" "setuptools<81"
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[dev,xtb,sella]"
	touch $@

demo: .venv/installed
	rm -rf demo
	$(BIN)/hybrid-calc run configs/md-ethanol.yaml --output demo
	$(BIN)/hybrid-calc store info demo/run.h5

# Two files at a time: many tests wait for a process of their own.
test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo runs build *.egg-info
