# Two commands do all the set-up on a fresh machine: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-extras test-mobile tutorials fuzz soak gpu docs sbom clean

demo: $(VENV)/installed
	$(BIN)/detector demo

test: $(VENV)/installed examples/node_modules/.package-lock.json
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

# The tests of heavy optional packages, which it installs; make test skips them where they are missing.
test-extras: $(VENV)/extras-installed
	$(BIN)/pytest --numprocesses 0 tests/extras

$(VENV)/extras-installed: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[dev,mlflow,ray,serve,ui,wandb]' flask flask-cors ipykernel 'moto[s3]' nbclient \
		playwright s3fs 'schemathesis>=4.32; python_version >= "3.11"'
	touch $@

# The notebooks run again where they lie, with what comes out kept in them.
tutorials: $(VENV)/extras-installed
	$(BIN)/python docs/run_notebooks.py

MOBILE := build/mobile-env

# The tests of the formats for phones. Their converters have an environment of their own (7 GB), see pyproject.toml.
test-mobile: $(MOBILE)/installed
	$(MOBILE)/bin/pytest --numprocesses 0 tests/extras/test_mobile.py tests/extras/test_licenses_of_extras.py

$(MOBILE)/installed: pyproject.toml
	$(PYTHON) -m venv $(MOBILE)
	$(MOBILE)/bin/pip install --quiet --editable '.[dev,mobile]'
	touch $@

# Random inputs for every reader of files from strangers: FUZZ_SECONDS each, other ones every time.
fuzz: $(VENV)/installed
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(BIN)/pytest tests/fuzz

# Jobs killed at random, of which nothing may be left: make soak MINUTES=60.
MINUTES ?= 20
soak: $(VENV)/installed
	$(BIN)/python benchmarks/soak.py $(MINUTES)

# All that is to be measured on a CUDA GPU, in at most 9 minutes; figures in runs/gpu.
gpu: $(VENV)/installed
	$(BIN)/python benchmarks/gpu.py

DOCS := build/docs-env

# The documentation as a site; its tools have an environment of their own.
docs: $(DOCS)/installed
	$(DOCS)/bin/sphinx-build -q -W --keep-going -b html -c docs . build/docs
	@echo "written: build/docs/docs/index.html"

$(DOCS)/installed: docs/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --requirement docs/requirements.txt
	touch $@

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps 'trackers>=2.6,<3'
	touch $@

# What an installation consists of, package by package with versions and licenses, as CycloneDX.
sbom: build/sbom-env/installed $(VENV)/installed
	build/sbom-env/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml -o build/sbom.json $(BIN)/python
	@echo "written: build/sbom.json"

build/sbom-env/installed:
	$(PYTHON) -m venv build/sbom-env
	build/sbom-env/bin/pip install --quiet 'cyclonedx-bom>=7,<8'
	touch $@

# What examples/detect.mjs needs; npm writes this file last. Without npm or its registry, the example's test is skipped.
examples/node_modules/.package-lock.json: examples/package.json
	npm install --prefix examples --ignore-scripts --no-audit --no-fund --no-update-notifier --silent \
		--fetch-retries=0 --fetch-timeout=60000 || echo "npm install failed: the JavaScript example's test is skipped"

clean:
	rm -rf $(VENV) runs
