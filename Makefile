# Every target sets up what it needs. Choose the Python that makes .venv with PYTHON=...
PYTHON ?= python3
BIN := .venv/bin
SOURCES = find natten_ops/csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh'

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-seg test lint format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

setup:  ## make .venv with everything in it; mmcv is compiled, once (minutes)
	@$(PYTHON) tools/setup_env.py

demo: setup  ## train and evaluate a small detector
	$(BIN)/python tools/demo.py detection

demo-seg: setup  ## train and evaluate a small segmentor
	$(BIN)/python tools/demo.py segmentation

test: lint  ## lint, then run the tests
	$(BIN)/python -m pytest

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
