# Two commands do everything:
#
#     make serve        a server on http://127.0.0.1:8000; ARGS="--port 9000" passes flags
#     make test         every check and test
#
# and further: test-slow (soak, sanitizers, large searches), bench (attention on the CPU), format, extension, clean.
# Each step leaves a stamp in .venv, so a second call does only what changed.

PYTHON ?= python3
ARGS ?=
# CPU builds of torch; the builds on PyPI bring gigabytes of CUDA along.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

VENV := .venv
RUN := $(VENV)/bin
PIP := $(RUN)/python -m pip install --quiet --disable-pip-version-check
CPP := $(wildcard csrc/*.cpp csrc/*.h csrc/cuda/*)
BUILT := $(VENV)/.built
BUILT_FOR_TESTS := $(VENV)/.built-for-tests
REQUIRED := $(VENV)/.required

.PHONY: serve test check test-slow bench format extension clean

serve: $(BUILT)
	$(RUN)/python -m pdrt.serve $(ARGS)

test: check
	$(RUN)/python -m pytest -m "not slow" $(ARGS)

test-slow: $(BUILT_FOR_TESTS)
	$(RUN)/python -m pytest -m slow $(ARGS)

check: $(BUILT_FOR_TESTS)
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/clang-format --dry-run -Werror $(CPP)

bench: $(BUILT)
	$(RUN)/python benchmarks/kernels/bench_cpu_attention.py $(ARGS)

format: $(REQUIRED)
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .
	$(RUN)/clang-format -i $(CPP)

extension: $(BUILT)

# The environment with the pinned requirements.
$(REQUIRED): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "pdrt needs Python 3.11 or newer, $(PYTHON) is `$(PYTHON) -V`;" \
	         "give another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) $$(grep '^torch==' requirements.txt)
	$(PIP) -r requirements.txt
	@touch $@

# The extension, in place, and pdrt itself as an editable installation.
$(BUILT): $(REQUIRED) setup.py pyproject.toml $(CPP)
	$(RUN)/python setup.py -q build_ext --inplace
	$(PIP) --no-build-isolation --no-deps -e .
	@$(RUN)/python -c 'from pdrt import _C; print("pdrt._C holds:", _C.BUILD)'
	@touch $@

# The build whose every shared write can be made its last.
$(BUILT_FOR_TESTS): $(BUILT)
	PDRT_FAILPOINTS=1 $(RUN)/python setup.py -q build_ext --inplace
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f pdrt/_C*.so
	find pdrt kernels tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
