# `make demo` and `make test` work on a fresh clone: both make .venv first.
# Needs Python 3.11 to 3.13, make and a C++ compiler.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-deps
# Exact versions, whose files must have one of the hashes that the lock lists.
LOCKED := $(PIP) --require-hashes

.DEFAULT_GOAL := help
.PHONY: help install lock programs demo test elastic coverage mutants lint format format-check types \
	fuzz fuzz-python properties faults audit sbom wheel readme report site recording neon wasm clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv with what is locked, every file checked by its hash

$(STAMP): pyproject.toml $(wildcard requirements/*.txt) native/CMakeLists.txt $(wildcard native/*/*.cc native/*/*.h)
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.13 is needed; none was found. Give one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "$(PYTHON) isn't Python 3.11 to 3.13. Give another: make PYTHON=/path/to/python3" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(LOCKED) -r requirements/build.txt
	@# PyTorch for processors alone, where pip sees it; else PyPI's, with the libraries for GPUs.
	$(LOCKED) --quiet -r requirements/cpu.txt 2>/dev/null || $(LOCKED) -r requirements/cuda.txt
	@# Not isolated: what has no wheel is built with the setuptools above, whose hash was checked.
	@# As a wheel: pip 23.0 would run its setup.py while the others are half installed.
	$(LOCKED) --no-build-isolation --use-pep517 -r requirements/dev.txt
	@# Not isolated, so that the test of the wheel finds the engine compiled in build/.
	$(PIP) --no-build-isolation -e .
	$(BIN)/python -m pip check
	@touch $@

LOCK ?=
WHEELS ?=
lock: ## Lock the versions and hashes again, after a change of pyproject.toml: make lock LOCK=--upgrade
	@test -x $(BIN)/uv || { echo "make lock needs uv, which 'make install' brings" >&2; exit 1; }
	$(BIN)/python -m tools.lock $(LOCK) $(WHEELS)

demo: $(STAMP) ## Train both models, benchmark, compare and report, in minutes
	$(BIN)/itera demo

test: $(STAMP) ## Run all the tests, a process a core
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

elastic: $(STAMP) ## Kill processes and launchers of a training, and compare what the rest ends with
	ITERA_ELASTIC=1 $(BIN)/python -m pytest tests/train/test_processes.py

coverage: $(STAMP) ## Run all the tests and say which lines they don't reach; fails below 90 %
	COVERAGE_FILE=$(CURDIR)/.coverage $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-report=html

ROOMS ?= stats machine records evaluate report
mutants: $(STAMP) ## Change what measures and judges, and see that a test fails: make mutants ROOMS="stats machine"
	$(BIN)/python -m tools.mutants $(ROOMS)

lint: $(STAMP) ## Look for mistakes
	$(BIN)/ruff check .

format: $(STAMP) ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

format-check: $(STAMP) ## Check the formatting
	$(BIN)/ruff format --check .

types: $(STAMP) ## Check the types
	$(BIN)/mypy

PROGRAMS := chromium clang-19 lld-19 libc++-19-dev-wasm32 libc++abi-19-dev-wasm32 \
	libclang-rt-19-dev-wasm32 wasi-libc gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm
programs: ## Install what some tests need beside Python, as root on Debian: a browser, compilers, an emulator, axe, TypeScript
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends $(PROGRAMS)
	npm install --prefix tests/playground --no-package-lock --no-audit --no-fund --silent

MINUTES ?= 1
# 72: stopped with Ctrl-C.
fuzz: $(STAMP) ## Look for a model file that breaks the engine: make fuzz MINUTES=10
	@$(MAKE) --no-print-directory -C native/fuzz fuzz_load
	$(BIN)/python -m tests.native.hostile --seeds build/fuzz/seeds
	@mkdir -p build/fuzz/corpus native/fuzz/cases
	build/fuzz/fuzz_load -max_total_time=$$(( $(MINUTES) * 60 )) -dict=build/fuzz/seeds/dictionary \
	    -max_len=65536 -timeout=10 -rss_limit_mb=2048 -artifact_prefix=native/fuzz/cases/ \
	    -print_final_stats=1 build/fuzz/corpus build/fuzz/seeds || test $$? = 72 || { echo \
	    "found: the file is kept in native/fuzz/cases, and 'make test' replays it from now on" >&2; exit 1; }

KILLS ?= 100
faults: $(STAMP) ## Kill every command at a hundred moments, and compare its end: make faults KILLS=100
	$(BIN)/python -m tests.faults --kills $(KILLS)

fuzz-python: $(STAMP) ## Look for a file that breaks a reader written in Python: make fuzz-python MINUTES=10
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --disable-pip-version-check 'atheris>=3,<4'
	$(BIN)/python -m tests.fuzz --seconds $$(( $(MINUTES) * 60 ))

properties: $(STAMP) ## Look for an input that breaks a property test, among others than those of 'make test'
	$(BIN)/python -m pytest -n auto -m hypothesis --hypothesis-profile=search

audit: $(STAMP) ## Look up known vulnerabilities of what is locked; "Error 3": the data can't be had
	@$(BIN)/python -m tools.audit

sbom: $(STAMP) ## Write the software bill of materials, build/sbom.cdx.json
	$(BIN)/python -m tools.sbom

wheel: $(STAMP) ## Build the wheel in dist/, the same bytes each time, and say which systems it runs on
	rm -rf dist
	$(BIN)/python -m pip wheel . --no-deps --no-build-isolation --quiet --wheel-dir dist
	sha256sum dist/*.whl
	$(BIN)/python -m auditwheel show dist/*.whl

readme: $(STAMP) ## Write the tables of README.md and docs/ from the committed results
	$(BIN)/python -m tools.readme

report: $(STAMP) ## Write the report again from the result files
	$(BIN)/itera report

site: $(STAMP) ## Build the documentation site in build/site
	$(BIN)/python -m tools.site

recording: $(STAMP) ## Record the terminal session that the pages show
	$(BIN)/python -m tools.recording

NEON_ZLIB := $(CURDIR)/build/neon/cmeel.prefix
neon: ## Build itera-run for aarch64 and check its kernels in an emulator (Debian: g++-aarch64-linux-gnu qemu-user cmake)
	@for p in aarch64-linux-gnu-g++ qemu-aarch64 cmake; do command -v $$p >/dev/null || { echo "make neon needs $$p; on Debian: apt-get install g++-aarch64-linux-gnu qemu-user cmake" >&2; exit 1; }; done
	$(PYTHON) -m pip download -q --no-deps --only-binary :all: --platform manylinux_2_28_aarch64 -d build/neon cmeel-zlib
	$(PYTHON) -m zipfile -e build/neon/cmeel_zlib-*.whl build/neon
	cmake -S native -B build/neon -DZLIB_INCLUDE_DIR=$(NEON_ZLIB)/include -DZLIB_SHARED=$(NEON_ZLIB)/lib64/libz.so -DZLIB_STATIC=$(NEON_ZLIB)/lib64/libz.a -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
	cmake --build build/neon --target itera-run
	qemu-aarch64 build/neon/itera-run --check

wasm: $(STAMP) ## Build the playground's engine as WebAssembly (Debian: clang-19 and what tools/wasm.py names)
	$(BIN)/python -m tools.wasm

clean: ## Remove .venv, caches and build outputs; results and checkpoints stay
	rm -rf $(VENV) build dist mutants .coverage* *.egg-info .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
