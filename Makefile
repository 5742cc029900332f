# What a contributor or a visitor runs: `make help` lists it. Nothing needs to be
# installed but a Python with venv.

PYTHON ?= python3
# constraints/oldest.txt is for this Python.
OLDEST_PYTHON ?= python3.11
VENV ?= .venv
OLDEST_VENV ?= .venv-oldest
# TensorFlow gets one thread in each test worker (tests/conftest.py).
WORKERS ?= 2
BENCHMARKS ?= mask_update step_time

PY := $(VENV)/bin/python
OLDEST_PY := $(OLDEST_VENV)/bin/python
PYTEST_PARALLEL := -n $(WORKERS) --dist worksteal
SOURCES := $(wildcard setup.py dpf_tf official_models benchmarks examples tests tools)

export TF_CPP_MIN_LOG_LEVEL ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DELETE_ON_ERROR:
# Two pip processes must not write to one environment, nor should two test runs compete.
.NOTPARALLEL:
.PHONY: help demo bench tables test test-slow test-oldest wheel-test lint format build-file
.PHONY: arm clean distclean
# The stamps are made through a pattern, and would be deleted as intermediate files.
.PRECIOUS: $(VENV)/.installed-%

help:
	@echo 'make demo         train, prune and strip a small model; writes demo_output/'
	@echo 'make test         the tests, then the tests of the built wheel'
	@echo 'make test-slow    the tests marked slow'
	@echo 'make test-oldest  the tests with the oldest versions that setup.py accepts'
	@echo 'make wheel-test   build the wheel, and use it from another folder'
	@echo 'make lint         ruff and mypy'
	@echo 'make format       let ruff format and mend the sources'
	@echo 'make build-file   write BUILD anew from the sources'
	@echo 'make bench        the benchmarks of README.md; BENCHMARKS=NAME for another'
	@echo 'make tables       the tables and figures of the documents anew'
	@echo 'make arm          run exported files on an emulated ARM (Debian, qemu-user-static)'
	@echo 'make clean        remove what was made here, except the environments'
	@echo 'make distclean    remove the environments too'
	@echo 'PYTHON=python3.12 chooses the Python of a new environment.'

# --- Environments -------------------------------------------------------------------

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(f"dpf_tf needs Python 3.11 or newer; $(PYTHON) is {sys.version.split()[0]}: choose another with PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip

# One stamp for each extra of setup.py: installed again only when setup.py changes.
$(VENV)/.installed-%: setup.py | $(PY)
	$(PY) -m pip install --quiet --editable '.[$*]'
	@touch $@

$(OLDEST_PY):
	$(OLDEST_PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_PY) -m pip install --quiet --upgrade pip

$(OLDEST_VENV)/.installed: setup.py constraints/oldest.txt | $(OLDEST_PY)
	$(OLDEST_PY) -m pip install --quiet --constraint constraints/oldest.txt \
	    --editable '.[test]'
	@touch $@

# --- Use ----------------------------------------------------------------------------

demo: $(VENV)/.installed-demo
	$(PY) examples/digits.py --out=demo_output

bench: $(VENV)/.installed-test
	@set -e; for name in $(BENCHMARKS); do \
	    echo "== benchmarks.$$name"; \
	    $(PY) -m "benchmarks.$$name" --out="benchmarks/results/$$name.json"; \
	done
	$(MAKE) --no-print-directory tables

tables: $(VENV)/.installed-test
	$(PY) -m benchmarks.tables
	$(PY) -m benchmarks.figures

ARM ?= /tmp/dpf_tf_arm
arm: $(VENV)/.installed-test
	PYTHON=$(PY) bash tools/aarch64_root.sh $(ARM)
	$(PY) -m benchmarks.emulated_arm --arm=$(ARM)

# --- Checks -------------------------------------------------------------------------

test: $(VENV)/.installed-test
	$(PY) -m pytest $(PYTEST_PARALLEL)
	$(MAKE) --no-print-directory wheel-test

test-slow: $(VENV)/.installed-test
	$(PY) -m pytest $(PYTEST_PARALLEL) -m slow

test-oldest: $(OLDEST_VENV)/.installed
	$(OLDEST_PY) -m pytest $(PYTEST_PARALLEL)

# The wheel goes into an environment of its own, outside the checkout. A .pth file lends
# it the packages of $(VENV); pip and the .pth files in there do not take part, so the
# editable install of the checkout stays out of reach.
wheel-test: $(VENV)/.installed-test
	@rm -rf build
	@set -e; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	$(PY) -m pip wheel --quiet --no-deps --wheel-dir "$$work" .; \
	$(PY) -m venv --without-pip "$$work/venv"; \
	$(PY) -m pip --python "$$work/venv/bin/python" install --quiet --no-deps \
	    "$$work"/dpf_tf-*.whl; \
	paths='import sysconfig as s; print(*sorted({s.get_path("purelib"), s.get_path("platlib")}), sep="\n")'; \
	target=$$("$$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	$(PY) -c "$$paths" > "$$target/lent.pth"; \
	script="$(CURDIR)/tests/wheel_smoke.py"; \
	cd "$$work" && venv/bin/python -I "$$script"
	@rm -rf build

lint: $(VENV)/.installed-dev
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)
	$(PY) -m mypy

format: $(VENV)/.installed-dev
	$(PY) -m ruff check --fix $(SOURCES)
	$(PY) -m ruff format $(SOURCES)

build-file: $(PY)
	$(PY) tools/update_build.py

clean:
	rm -rf build dist *.egg-info demo_output
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(OLDEST_VENV)
