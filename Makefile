# Every target sets up what it needs. Choose the Python that makes .venv with PYTHON=...
PYTHON ?= python3
BIN := .venv/bin
# What set-up made last, and for what: another folder or other wishes for CUDA need another.
STAMP := $(shell printf '%s' "$(CURDIR) $$NATTEN_OPS_CUDA $$TORCH_CUDA_ARCH_LIST $$CUDA_HOME" | cksum | cut -d' ' -f1)
ENVIRONMENT := .venv/environment-$(STAMP)
PROJECT := .venv/project-$(STAMP)
SOURCES = find natten_ops/csrc tests/emulator/simt benchmarks/lib -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh'
# A test that hangs fails.
LIMIT := --timeout=900
PYTEST := $(BIN)/python -m pytest $(LIMIT)
NOX := $(BIN)/nox --no-error-on-missing-interpreters
# One test a core, each with one thread.
EVERY_CORE := OMP_NUM_THREADS=1 $(PYTEST) -n auto --dist worksteal
# What runs compiled kernels, but not torch's compiler.
SANITIZED = $(filter-out %_compile.py %_reference.py,$(wildcard tests/natten_ops/test_*.py))

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-seg test test-all test-sanitize test-matrix test-gpu fuzz wheel \
	benchmark benchmark-gpu docs lint format lock clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 17

setup: $(PROJECT)  ## make .venv with everything in it; mmcv is compiled, once (minutes)

$(ENVIRONMENT): requirements/torch.txt requirements/mmcv.txt requirements/lock.txt \
		tools/dev/setup_env.py tools/dev/build_mmcv.py
	@$(PYTHON) tools/dev/setup_env.py environment
	@touch $@

$(PROJECT): $(ENVIRONMENT) setup.py pyproject.toml tools/dev/setup_cuda.py $(shell find natten_ops/csrc -type f)
	@$(PYTHON) tools/dev/setup_env.py project
	@touch $@

demo: setup  ## train and evaluate a small detector
	$(BIN)/mmnat demo detection

demo-seg: setup  ## train and evaluate a small segmentor
	$(BIN)/mmnat demo segmentation

test: lint  ## lint, then run the tests but for the long ones (under 15 minutes on two cores)
	$(EVERY_CORE) -m 'not long and not alone'
	$(PYTEST) -m 'alone and not long'

# The wheel comes first: tests look at the CUDA library that it holds.
test-all: test wheel  ## run the long tests, too, all CUDA devices, sanitizers, the wheel beside another torch (an hour)
	$(EVERY_CORE) -m 'long and not alone'
	$(PYTEST) -m 'alone and long'
	$(MAKE) test-sanitize
	$(NOX) -s "wheel(python='$$($(BIN)/python -c "import sys; print('{}.{}'.format(*sys.version_info))")', torch='2.10.0')"

fuzz: setup  ## look for files and configs that end in a traceback, with other inputs in each run
	FUZZ=1 $(EVERY_CORE) -m long tests/mmnat/fuzz

test-matrix: wheel  ## install the wheel beside every supported torch and Python and run the operator's tests there
	$(NOX)

# Sanitizers must be there before Python is, and the C++ library, whose exceptions they follow, with
# them. Output is not captured: theirs would be lost with the program that they end. `python -m pytest` would
# import the library that lies here.
test-sanitize: setup  ## run the operator's tests with AddressSanitizer and UndefinedBehaviorSanitizer (GCC)
	rm -rf build/sanitize
	NATTEN_OPS_SANITIZE=1 $(BIN)/python setup.py -q build --build-lib build/sanitize --build-temp build/sanitize-temp
	NATTEN_OPS_SANITIZE=1 PYTHONPATH=$(CURDIR)/build/sanitize \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	OMP_NUM_THREADS=1 $(BIN)/pytest $(LIMIT) -n auto --dist worksteal -vv --capture=sys $(SANITIZED)

test-gpu:  ## run the tests that need a GPU, with torch, pytest, hypothesis and numpy of PYTHON and libraries built in place
	$(PYTHON) -m pytest -m gpu

wheel: setup  ## build dist/mmnat-*.whl: one for every Python and torch, CPU and all CUDA devices (minutes)
	rm -rf build/lib* build/bdist* build/wheel dist
	NATTEN_OPS_CUDA=1 TORCH_CUDA_ARCH_LIST= $(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w build/wheel .
	PATH=$(CURDIR)/$(BIN):$$PATH auditwheel repair --exclude 'libtorch*.so' --exclude 'libc10*.so' -w dist build/wheel/mmnat-*.whl
	$(BIN)/abi3audit --strict dist/mmnat-*.whl

benchmark-gpu: setup  ## time the operator on a GPU, into benchmarks/results/operator_cuda.csv
	$(BIN)/python -m benchmarks.ops --device cuda

benchmark: setup  ## time operator, modules and backbones, into benchmarks/results; draw the README's picture (15 minutes)
	$(BIN)/python -m benchmarks.ops --quick
	$(BIN)/python -m benchmarks.ops --quick --no-peers --threads 1 2 --out benchmarks/results/operator_cpu_threads.csv
	$(BIN)/python -m benchmarks.ops --quick --no-peers --dtype float32 bfloat16 --out benchmarks/results/operator_cpu_bfloat16.csv
	$(BIN)/python -m benchmarks.ops --quick --no-peers --capability avx2 --out benchmarks/results/operator_cpu_avx2.csv
	$(BIN)/python -m benchmarks.models
	$(BIN)/python -m benchmarks.plot

docs: setup  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: setup  ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(SOURCES) | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/mypy

format: setup  ## format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(SOURCES) | xargs $(BIN)/clang-format -i

# Packages that lock.txt has stay at their versions as long as they fit; remove it to have the newest.
lock: setup  ## write requirements/lock.txt anew from environment.in
	$(BIN)/python -m pip install -q uv
	sed -E '/^torch/d; s/^([a-z][^#;]*)$$/\1 ; python_version < "3.14"/' requirements/environment.in requirements/torch.txt | \
	$(BIN)/uv pip compile -q --python $(BIN)/python --no-build-isolation --universal --python-version 3.10 \
	  --generate-hashes --override requirements/overrides.txt --custom-compile-command 'make lock' \
	  -o requirements/lock.txt -

clean:  ## remove build products; .venv and data stay
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis .nox mmnat/.mim
	find natten_ops -name '*.so' -delete
	rm -f .venv/project-*
	find . -name __pycache__ -not -path './.venv/*' -not -path './data/*' -prune -exec rm -rf {} +
