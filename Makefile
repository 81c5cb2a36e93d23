PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
NUMERICAL = tests/exact tests/energies tests/samplers tests/classifiers tests/metrics tests/systems tests/training \
	tests/callbacks tests/portraits tests/pictures tests/test_seeds.py tests/test_query.py tests/test_schema.py
PIP = $(RUN) -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-portable faults lint docs settings experiments tables bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

$(VENV)/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else \"Python 3.11 or later is required: make PYTHON=python3.12 ...\")"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) -e .
	@touch $@

$(VENV)/tools: $(VENV)/installed
	$(PIP) -e ".[test,lint]"
	@touch $@

$(VENV)/site_tools: $(VENV)/tools
	$(PIP) -e ".[docs]"
	@touch $@

demo: $(VENV)/installed  ## build the environment and run the main job (CIFAR-10, LACE-ODE)
	$(RUN) -m lace_lightning +experiment=cifar10_ode
	@echo "Faces, edited step by step: $(RUN) -m lace_lightning +experiment=faces_edit hydra.mode=RUN editing=sequential"

test: $(VENV)/tools  ## build the environment and run the tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-portable: $(VENV)/tools  ## run the numerical tests again, as on a processor without vector instructions
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile $(NUMERICAL)

faults: $(VENV)/tools  ## kill, damage and race everything that is kept, and print a table (long)
	OMP_NUM_THREADS=1 $(RUN) -m tests.faults

docs: $(VENV)/site_tools settings  ## build the documentation site into site/ and check its links (DOCS_EXECUTE=false: tutorials are not run)
	OMP_NUM_THREADS=1 PYTHONPATH="$(CURDIR)" NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo "the site: site/index.html"

settings: $(VENV)/tools  ## write docs/settings.md from the code
	$(RUN) -m lace_lightning.run.settings_reference > docs/settings.new && mv docs/settings.new docs/settings.md

lint: $(VENV)/tools  ## format, ruff, mypy and the import rules
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --config setup.cfg

experiments: $(VENV)/installed  ## run the quick experiments again and write experiments/
	$(RUN) experiments/record.py

tables: $(VENV)/installed  ## make what is missing of the tables of systems and write experiments/table*
	$(RUN) experiments/tables.py

bench: $(VENV)/tools  ## speed and memory, side by side
	$(RUN) benchmarks/bench_start.py
	$(RUN) benchmarks/bench_sampling.py
	$(RUN) benchmarks/bench_synthesis.py
	$(RUN) benchmarks/bench_training.py
	$(RUN) benchmarks/bench_pairs.py
	$(RUN) benchmarks/bench_grid.py
	$(RUN) benchmarks/bench_rivals.py
	$(RUN) benchmarks/bench_drawing.py
	$(RUN) benchmarks/bench_memory.py
	$(RUN) benchmarks/bench_convert.py
	$(RUN) benchmarks/bench_portraits.py
	$(RUN) benchmarks/bench_editing.py
	$(RUN) benchmarks/bench_large.py
	$(RUN) benchmarks/bench_stylegan3.py

clean:  ## remove the environment, results and caches of this checkout
	rm -rf $(VENV) build dist site outputs *.egg-info .mypy_cache .ruff_cache .pytest_cache
