# make demo       set-up, then the bundled toy reasoner traced, and what its thinking tokens do
# make test       set-up, then the test suite
# make test-cluster  the tests that start a Ray cluster on this machine
# make check      formatting, lint, types, who may import whom
# make notebooks  the notebooks, executed, as .ipynb and offline HTML
# make studies    all studies on the toys; writes docs/RESULTS.md (half an hour)
# make docs       what is made from the sources: docs/ERRORS.md, docs/API.md, tables of the README
# make pictures   the pictures of the README (needs Chromium)
# make bench      decoding, reading, nHSIC beside Hugging Face, TransformerLens and nnsight (a quarter of an hour)
# make gpu-check  on a machine with a CUDA device: the contract suite there, waits, a bench table; one page
# make toys       train the bundled toy models again, from their seeds (half an hour)
# make wheel      build dist/*.whl

PYTHON ?= python3
BIN := .venv/bin
# Compiled is what is imported, when it is: compiling all that is installed takes as long as installing it.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check notebooks studies docs pictures bench gpu-check toys wheel clean

demo: .venv/run.stamp
	$(BIN)/peaklens demo

test: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		-m "not cluster"

test-cluster: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster tests/analyses/test_on_ray.py

check: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

notebooks: .venv/dev.stamp
	$(BIN)/python -m analyses.notebooks --out notebooks

studies: .venv/dev.stamp
	$(BIN)/python -m analyses.studies --out runs/studies --results docs/RESULTS.md

docs: .venv/dev.stamp
	$(BIN)/python tests/documents.py

pictures: .venv/dev.stamp
	$(BIN)/python -m analyses.notebooks.pictures --out docs/pictures

bench: .venv/dev.stamp .venv/nnsight.stamp
	$(BIN)/python -m analyses.bench --nnsight .venv/nnsight/bin/python --out bench

gpu-check: .venv/dev.stamp
	$(BIN)/python -m analyses.bench.gpu

toys: .venv/dev.stamp
	$(BIN)/python -m analyses.toys.train --model toy-reasoner --out interp/bundled/toy-reasoner
	$(BIN)/python -m analyses.toys.train --model toy-base --out interp/bundled/toy-base

wheel: .venv/dev.stamp
	$(BIN)/python -m build --wheel

clean:
	rm -rf .venv build dist bench notebooks runs *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/run.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("peaklens needs Python 3.11 or newer; set PYTHON=... (this is %d.%d)" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "Setting up .venv (some minutes the first time) ..."
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	@touch $@

.venv/dev.stamp: .venv/run.stamp
	$(PIP) -e ".[dev]"
	@touch $@

# What others compare with is no dependency of ours: it has an environment of its own.
.venv/nnsight.stamp: .venv/run.stamp
	$(BIN)/python -m venv .venv/nnsight
	.venv/nnsight/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt \
		nnsight==0.8.1 torch transformers
	@touch $@
