# `make demo` and `make test` need nothing but Python 3.11, 3.12 or 3.13; both build their own environment in .venv.
PYTHON ?= $(firstword $(foreach v,python3.11 python3.12 python3.13 python3,$(shell command -v $(v) 2>/dev/null)))
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint docs notebooks clean

demo: $(VENV)/.installed
	$(BIN)/slotworks demo $(ARGS)

test: $(VENV)/.installed-test lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(ARGS)

docs: $(VENV)/.installed-docs
	$(BIN)/python docs/website.py

notebooks: $(VENV)/.installed-test
	$(BIN)/jupytext --to ipynb --update notebooks/*.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"slotworks needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}; run: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info
