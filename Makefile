# Everything runs in .venv, which the first target that needs it makes.
# TORCH names the build of torch to install, TORCH_INDEX the package index to take it from (PyTorch's
# CPU-only or CUDA index, say); any torch from 2.11 on will do.
PYTHON ?= python3
PORT ?= 8000
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
MODELS ?= models
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: setup serve test check bench e2e figures clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/python -m pip install -q -e ".[service,test]"
	touch $@

serve: setup
	$(BIN)/lccl-serve --port $(PORT) --models $(MODELS)

test: setup
	$(BIN)/python -m pytest -m "not docker"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: setup
	$(BIN)/python -m benchmarks.serving

e2e:
	bash deploy/e2e.sh

figures: setup
	$(BIN)/python -m pip install -q -e ".[figures]"
	$(BIN)/python -m benchmarks.figures

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
