# Two commands do all the set-up on a fresh machine: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test clean

demo: $(VENV)/installed
	$(BIN)/detector demo

test: $(VENV)/installed examples/node_modules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses 2 --dist worksteal

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

# what examples/detect.mjs needs; its test is skipped where there is no npm
examples/node_modules: examples/package.json
	if command -v npm; then npm install --prefix examples --ignore-scripts --no-audit --no-fund --silent && touch $@; fi

clean:
	rm -rf $(VENV) runs
