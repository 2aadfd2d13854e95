# Everything happens in a virtual environment of the checkout; nothing else on the machine changes.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo
VIEWER := gadgets/mri2qmap/report/viewer.js
# Tests run in so many processes of one thread each.
WORKERS ?= 2

.DEFAULT_GOAL := help
# The viewer of the report is built where npm is; reports have fixed slices without it.
VIEWER_IF_NPM := $(if $(shell command -v npm),viewer-if-possible)

.PHONY: help install viewer viewer-if-possible wheel sdist demo test test-slow gpu-check lint docs wheel-test clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /'

# torch first and by itself: whoever needs another build of it says make TORCH=...
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet '$(TORCH)'
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[test]'
# The independent EPG of the tests asks for numpy 1 but runs with numpy 2.
	$(BIN)/pip install --quiet --no-deps 'epyg==0.2.0'
	touch $@

$(VENV)/.installed-demo: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[demo]'
	touch $@

install: $(VENV)/.installed  ## set up the environment

$(VIEWER): viewer/package-lock.json viewer/build.mjs $(wildcard viewer/src/*.js viewer/licences/*)
	cd viewer && npm ci --ignore-scripts --no-audit --no-fund --silent && npm run --silent build

viewer: $(VIEWER)  ## build the interactive viewer of the report, with npm

viewer-if-possible:
	@$(MAKE) --no-print-directory viewer || echo "the viewer was not built: reports have fixed slices"

wheel: $(VENV)/.installed viewer  ## the wheel in dist/, with the viewer
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

sdist: $(VENV)/.installed-test viewer  ## the sources in dist/, with the viewer
	$(BIN)/python -m build --sdist --outdir dist . >/dev/null

demo: $(VENV)/.installed-demo $(VIEWER_IF_NPM)  ## simulate a scan of the ICBM brain, reconstruct it, picture it in demo/
	$(BIN)/mri2qmap demo -o $(OUT) --overwrite

lint: $(VENV)/.installed-test  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: lint $(VIEWER_IF_NPM)  ## style, types and tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

test-slow: $(VENV)/.installed-test  ## small studies and others that take long
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile -m slow --timeout 1800

# With what is there: a machine with a GPU may have no network. The environment is used if it was made.
gpu-check:  ## tests, parity, a large scan and a profile on a GPU, in gpu_check/
	$(or $(wildcard $(BIN)/python),$(PYTHON)) tests/gpu/check.py -o gpu_check

docs: $(VENV)/.installed-test  ## build the documentation site in docs/_build
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build

wheel-test: $(VENV)/.installed-test $(VIEWER_IF_NPM)  ## the wheel in an empty environment (gigabytes)
	MRI2QMAP_WHEEL_TEST='$(TORCH)' $(BIN)/pytest tests/api/test_wheel.py

clean:  ## remove the environment and what demo made
	rm -rf $(VENV) $(OUT) gpu_check docs/_build dist viewer/node_modules $(VIEWER) $(VIEWER:.js=.licences.txt)
