"""examples/minimal.py: the numbers of the pipeline's own stages, on one screen."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import project
from examples import minimal
from tests.small import BEFORE_TRAIN, FROM_TRAIN

LINES = 150
FEW = {
    "source.corpus.options.train_prompts": 60,
    "source.corpus.options.validation_prompts": 24,
    "source.corpus.options.test_prompts": 12,
    "policy.scratch": {"layers": 1, "width": 32, "heads": 4, "context": 128, "vocabulary": 400, "init_scale": 4.0},
    "generate.max_new_tokens": 12,
    "value.epochs": 2,
    "train.batch_size": 8,
}


@pytest.fixture
def task(monkeypatch):
    """The example's own task with fewer and shorter rows."""
    task = copy.deepcopy(minimal.TASK)
    project.change(task, FEW)
    monkeypatch.setattr(minimal, "TASK", task)
    return task


def test_it_fits_on_a_screen_and_is_flat():
    assert len(Path(inspect.getfile(minimal)).read_text(encoding="utf-8").splitlines()) <= LINES


def test_the_numbers_are_those_of_the_stages_to_the_last_digit(task, tmp_path, monkeypatch, capsys):
    flat = minimal.main(tmp_path / "flat")
    assert "of 180 logged responses are discarded" in capsys.readouterr().out

    raw = project.parameters("demo")
    raw |= {"task": "minimal", "tasks": {"minimal": task}, "seed": 1}
    (tmp_path / "stages").mkdir()
    monkeypatch.chdir(tmp_path / "stages")
    project.write(Path(), raw)
    for name in (*BEFORE_TRAIN, *FROM_TRAIN):
        arguments = ["--task", "minimal"] + (["--algorithm", "a_lol"] if name in FROM_TRAIN else [])
        result = CliRunner().invoke(importlib.import_module(f"stages.{name}").main, arguments)
        assert result.exit_code == 0, f"{name}: {result.output} {result.exception!r}"

    fit = json.loads(Path("metrics/value.json").read_text())
    run = json.loads(Path("models/minimal/a_lol/training.json").read_text())
    summary = json.loads(Path("metrics/summary.json").read_text())
    assert (flat["value_mse"], flat["value_mse_constant"]) == (fit["value_mse"], fit["value_mse_constant"])
    assert flat["discarded"] == run["discarded"]
    assert flat["losses"] == [entry["loss"] for entry in run["curve"]]
    for model in ("gold", "reference", "policy"):
        assert float(f"{flat[model]:.6g}") == summary[model]["all"]["reward"], model
