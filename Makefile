# Everything runs in .venv, which the first target makes.
PYTHON ?= python3
CC ?= cc
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
# Tests run side by side; what is timed does not.
JOBS ?= $(shell nproc)

.PHONY: compare test smoke check hunt planted bench budgets lint sanitize tsan snapshots build captures headlines \
	oracle models docs clean kernel kernel-measure kernel-check kernel-module

compare: build
	@$(PY) -m extmeta compare --quick $(ARGS)

# Each file runs on one worker, since its tests share what they set up.
PYTEST := $(PY) -m pytest -n $(JOBS) --dist loadfile

test: build $(VENV)/test-ready
	$(PYTEST) tests -q -m "not slow" $(if $(COVER),--cov --cov-report=) $(ARGS)

# What takes a minute: no programs for the kernel, no commands.
smoke: build $(VENV)/test-ready
	EXTMETA_TESTS=smoke $(PYTEST) -q -m "not slow" tests $(SMOKE) $(ARGS)

SMOKE := --ignore tests/kernel --ignore tests/kernel_cases --ignore tests/commands

# `test`, then the instruction budgets and the long campaigns: the kernel as oracle, a
# guest, packages. Together the tests have to cover the Python code; what workers of a sweep run in
# other processes is not seen.
check: COVER := 1
check: test budgets
	EXTMETA_TESTS=full $(PYTEST) tests -q -m slow --cov --cov-append \
		--cov-report=term:skip-covered --cov-fail-under=96 $(ARGS)

# Random operations that no run has drawn before, on every encoding.
hunt: build $(VENV)/test-ready
	EXTMETA_TESTS=hunt $(PYTEST) -q -m "not slow" $(HUNT) $(ARGS)

HUNT := tests/encodings/test_conformance.py tests/encodings/test_follows_content.py \
	tests/linux/test_addressspace_machine.py -k "against_dict or show_the_same or follows_its_content"

# Bugs in copies of the code, each of which the tests have to find: half an hour.
planted: build $(VENV)/test-ready
	$(PY) tests/planted.py
	$(PY) tests/kernel/mutants.py
	$(PY) tests/kernel/mutants.py --guest

bench: build $(VENV)/test-ready $(VENV)/bench-ready
	$(PY) -m pytest benchmarks $(ARGS)

# Instructions of every operation and encoding against benchmarks/budgets.json;
# UPDATE='why they change' writes what is counted now.
budgets: build
	$(PY) benchmarks/budgets.py $(if $(UPDATE),--update '$(UPDATE)')

lint: build $(VENV)/lint-ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint src tests examples
	cd src && ../$(PY) -m mypy --no-error-summary -p extmeta -m pytest_extmeta
	cd src && ../$(PY) -m mypy.stubtest $(STUBS) --allowlist ../tests/stubtest-allow.txt \
		--mypy-config-file ../pyproject.toml \
		--ignore-unused-allowlist --ignore-disjoint-bases --concise

STUBS = $(shell cd src && find extmeta -name '*.pyi' | sed 's/\.pyi$$//; s/\//./g' | sort)

# The extension with AddressSanitizer, UBSan and bounds checks, apart from the
# one in src/.
SANITIZED := build/sanitized
sanitize: $(VENV)/test-ready
	EXTMETA_DEBUG=1 $(PY) setup.py -q build --build-base build/sanitize --build-lib $(SANITIZED)
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	PYTHONMALLOC=malloc PYTHONPATH=$(SANITIZED) EXTMETA_TESTS=brief \
	$(PYTEST) -q -p no:cacheprovider -m "not slow" $(CORE) $(ARGS)

# The tests of compiled code, but for those that mostly run Python.
CORE := tests/test_sanitized.py tests/test_fields.py tests/test_arch.py tests/memory tests/table tests/encodings \
	--ignore tests/encodings/test_plan.py --ignore tests/encodings/test_plugins.py \
	--ignore tests/encodings/test_python_encoding.py --ignore tests/table/test_reserve.py \
	--ignore tests/table/test_copies.py

# The extension with ThreadSanitizer, also apart from the one in src/.
TSANNED := build/tsanned
tsan: $(VENV)/test-ready
	EXTMETA_DEBUG=thread $(PY) setup.py -q build --build-base build/tsan --build-lib $(TSANNED)
	LD_PRELOAD="$$($(CC) -print-file-name=libtsan.so)" TSAN_OPTIONS=halt_on_error=1:history_size=4 \
	PYTHONPATH=$(TSANNED) EXTMETA_TESTS=brief \
	$(PY) -m pytest -q -p no:cacheprovider --capture=sys tests/test_sanitized.py tests/memory \
		tests/table/test_threads.py tests/table/test_snapshot.py $(ARGS)

# Snapshots against two writers, N of them; goes on where it was stopped.
snapshots: build
	$(PY) benchmarks/snapshots.py --snapshots $(or $(N),1000000000) $(ARGS)

# Random programs on this kernel (GUEST=1: in a qemu guest) and on every encoding;
# goes on where it was stopped.
oracle: build $(VENV)/test-ready
	$(PY) tests/kernel/oracle.py --operations $(or $(N),20000) $(if $(GUEST),--guest) \
		$(if $(KERNEL),--kernel $(KERNEL)) $(ARGS)

# spin goes through all states of the lockless snapshot, and refutes what is broken.
models:
	$(PYTHON) tests/models/check.py $(ARGS)

# The headlines against size, stored for this machine; then which hold on all machines.
headlines: build
	$(PY) benchmarks/scale.py --headlines $(ARGS)
	-$(PY) benchmarks/scale.py --machines

captures: build
	$(PY) benchmarks/make_captures.py

# Linux 6.12 with words beside its PTE tables, in build/kernel: ten minutes a kernel. What is
# built stays. Needs gcc, make, bc, perl, libssl-dev and qemu-system-x86; nothing is installed.
kernel: build
	$(PY) kernel/kernels.py $(ARGS)

# Boots those kernels under icount; writes kernel/results.json and what is shown of it.
kernel-measure: build
	$(PY) kernel/measure.py
	$(PY) kernel/tables.py

# Words stay with their PTEs: on each form, and on a kernel with lockdep and KASAN.
kernel-check: build
	$(PY) kernel/check.py $(ARGS)

# The module, on the stock kernel of Debian.
kernel-module: build
	$(PY) kernel/module.py $(ARGS)

# The documents as a site, build/site/index.html; a warning is an error.
docs: build $(VENV)/docs-ready
	$(PY) -m sphinx -q -W --keep-going -b html -d build/doctrees docs build/site

# Editable: what is in src/ is what runs; `build` compiles what has changed.
build: $(VENV)/ready
	@$(PY) setup.py -q build_ext --inplace

$(VENV)/ready: pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "extmeta needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@command -v $(CC) >/dev/null || \
		{ echo "extmeta needs a C compiler: apt install gcc (or set CC=...)"; exit 1; }
	@echo 'int main(void) { return 0; }' | $(CC) -x c - -o /dev/null 2>/dev/null || \
		{ echo "$(CC) can't build a program: apt install gcc libc6-dev"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "extmeta needs Python's venv module: apt install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sysconfig, os, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
		{ echo "extmeta needs Python's headers: apt install python3-dev"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "extmeta: installing cython, numpy and rich into $(VENV), then compiling (about a minute)"
	@$(call named,["build-system"]["requires"])
	@EXTMETA_EXTENSIONS=0 $(PIP) --no-build-isolation --editable .
	@touch $@

# Installs what a list of pyproject.toml names, or one of its extras;
# `--editable '.[$(1)]'` would compile all again. pip fails if there is no list.
named = $(PIP) $$($(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1))')
extra = $(call named,["project"]["optional-dependencies"]["$(1)"])

$(VENV)/test-ready: $(VENV)/ready
	@$(call extra,test)
	@touch $@

$(VENV)/bench-ready: $(VENV)/ready
	@$(call extra,bench)
	@touch $@

$(VENV)/lint-ready: $(VENV)/ready
	@$(call extra,lint)
	@touch $@

$(VENV)/docs-ready: $(VENV)/ready
	@$(call extra,docs)
	@touch $@

clean:
	rm -rf build dist docs/api src/*.egg-info
	find src -name '*.so' -delete
