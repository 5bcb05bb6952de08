# Every target sets up what it needs. Choose the Python that makes .venv with PYTHON=...
PYTHON ?= python3
BIN := .venv/bin
SOURCES = find natten_ops/csrc tests/simt -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh'
# What runs compiled kernels, but not torch's compiler.
SANITIZED = $(filter-out %_compile.py %_reference.py,$(wildcard tests/test_operator_*.py)) \
	tests/test_attention_modules.py

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-seg test test-sanitize test-gpu benchmark benchmark-gpu lint format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 15

setup:  ## make .venv with everything in it; mmcv is compiled, once (minutes)
	@$(PYTHON) tools/setup_env.py

demo: setup  ## train and evaluate a small detector
	$(BIN)/python tools/demo.py detection

demo-seg: setup  ## train and evaluate a small segmentor
	$(BIN)/python tools/demo.py segmentation

test: lint  ## lint, then run the tests
	$(BIN)/python -m pytest

# Sanitizers must be there before Python is, and the C++ library, whose exceptions they follow, with
# them. Output is not captured: theirs would be lost with the program that they end.
test-sanitize: setup  ## run the operator's tests with AddressSanitizer and UndefinedBehaviorSanitizer (GCC)
	rm -rf build/sanitize
	NATTEN_OPS_SANITIZE=1 $(BIN)/python setup.py -q build --build-lib build/sanitize --build-temp build/sanitize-temp
	NATTEN_OPS_SANITIZE=1 PYTHONPATH=$(CURDIR)/build/sanitize \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	$(BIN)/pytest -vv --capture=sys $(SANITIZED)

test-gpu: setup  ## run the tests that need a GPU, with compute-sanitizer where it is on PATH
	$(BIN)/python -m pytest -m gpu

benchmark-gpu: setup  ## time the operator on a GPU, into benchmarks/operator_cuda.csv
	$(BIN)/python tools/benchmark_ops.py --device cuda

benchmark: setup  ## time operator, modules and backbones, into benchmarks/; draw the README's picture (15 minutes)
	$(BIN)/python tools/benchmark_ops.py --quick
	$(BIN)/python tools/benchmark_ops.py --quick --no-peers --threads 1 2 --out benchmarks/operator_cpu_threads.csv
	$(BIN)/python tools/benchmark_ops.py --quick --no-peers --dtype float32 bfloat16 --out benchmarks/operator_cpu_bfloat16.csv
	$(BIN)/python tools/benchmark_ops.py --quick --no-peers --capability avx2 --out benchmarks/operator_cpu_avx2.csv
	$(BIN)/python tools/benchmark_models.py
	$(BIN)/python tools/plot_speed.py

lint: setup  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(SOURCES) | xargs $(BIN)/clang-format --dry-run -Werror

format: setup  ## format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(SOURCES) | xargs $(BIN)/clang-format -i

clean:  ## remove build products; .venv and data stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find natten_ops -name '*.so' -delete
	find . -name __pycache__ -not -path './.venv/*' -not -path './data/*' -prune -exec rm -rf {} +
