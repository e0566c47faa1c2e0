# Needs make and Python 3.10 to 3.13. `make install` makes .venv, unless an environment is active
# or PYTHON=/path/to/python names one. DEMO_ARGS and PYTEST_ARGS are passed on.

# threads that spin while they wait make small networks many times slower on a busy machine
export OMP_WAIT_POLICY ?= PASSIVE
# large tensors are reused, not returned to the system and cleared anew in every step
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 100000000000
# the active environment; conda's base is conda's own
ACTIVE := $(or $(VIRTUAL_ENV),$(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)))
PY := $(or $(PYTHON),$(or $(ACTIVE),$(CURDIR)/.venv)/bin/python)

.PHONY: help install demo test test-slow results lint format lock
.DELETE_ON_ERROR:

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## */  make \1	/p' Makefile

install: $(if $(PYTHON)$(ACTIVE),,.venv/bin/python)  ## mmpse and the OpenMMLab stack; about 10 minutes, continues when interrupted
	@command -v "$(PY)" >/dev/null || { echo "install: there is no $(PY): activate another environment, \
	or none and leave out PYTHON=, so that .venv is made" >&2; exit 1; }
	@"$(PY)" -I tools/install.py

.venv/bin/python:
	@for python in python3 python3.12 python3.11 python3.13 python3.10; do \
	"$$python" -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null && \
	exec "$$python" -m venv .venv; done; command -v uv >/dev/null && exec uv venv --python 3.12 .venv; \
	echo "install: found no Python 3.10 to 3.13 and no uv that could fetch one: install one of them \
	(Debian, Ubuntu: apt install python3-venv)" >&2; exit 1

demo: install  ## installs everything, then prunes three models on embedded data in every way
	"$(PY)" tools/demo.py $(DEMO_ARGS)

# a process for each core: the tests' networks are too small for several threads
test test-slow: export OMP_NUM_THREADS = 1
PYTEST = "$(PY)" -m pytest -n auto --maxprocesses 8

test: lint  ## lint, format check and the tests that take seconds
	$(PYTEST) $(PYTEST_ARGS)

test-slow: lint  ## the same with all tests
	$(PYTEST) -m '' $(PYTEST_ARGS)

results: install  ## rewrite docs/results.md from its records; trains nothing
	"$(PY)" tools/evidence/report.py

lint: install  ## check style and formatting
	"$(PY)" -m ruff check
	"$(PY)" -m ruff format --check

format: install  ## mend what can be mended
	"$(PY)" -m ruff check --fix
	"$(PY)" -m ruff format

# mmcv is built against these versions and so is not among them
lock:  ## resolve requirements/lock.txt after a change beside it (needs uv; delete it to upgrade all)
	uv pip compile -q --universal --fork-strategy fewest --python-version 3.10 --no-annotate \
	--no-header --no-emit-package onedl-mmcv -o requirements/lock.txt \
	requirements.txt requirements/mminstall.txt
	sed -i "/^#/d; s/ and platform_machine.*//; s/ ; python_full_version < '3.14'//; \
	1i # made by make lock, for Linux and Python 3.10 to 3.13" requirements/lock.txt
