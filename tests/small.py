"""A project folder with a demo small enough to run the whole graph in one process within seconds."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click import Command
from click.testing import CliRunner, Result

from benchmarks import project
from benchmarks.project import ROOT

__all__ = ["ROOT"]
BEFORE_TRAIN = (
    "download", "clean", "reward_model", "annotate", "reference", "rollout", "baseline", "value", "advantage",
)  # fmt: skip
FROM_TRAIN = ("train", "evaluate", "aggregate")
MODELS = (*BEFORE_TRAIN[2:], *FROM_TRAIN[:2])  # stages that run models
SMALL = {
    "source.corpus.options": {"train_prompts": 60, "validation_prompts": 24, "test_prompts": 12, "labels": 90},
    "rewards.helpful.train": {"width": 16, "heads": 2, "layers": 1, "epochs": 1, "vocabulary": 400},
    "policy.scratch": {"layers": 1, "width": 32, "heads": 4, "vocabulary": 400},
    "policy": {"max_prompt": 96, "max_response": 24},
    "reference": {"epochs": None, "updates": 8, "evaluations": 2},
    "reference.optimizer": {"warmup": 2},
    "reference.pretrain.optimizer": {"warmup": 2},
    "generate": {"max_new_tokens": 12},
    "value": {"heads": 4, "epochs": 2, "folds": 3},
    "train": {"epochs": None, "updates": 8, "batch_size": 8, "evaluations": 2},
    "aggregate": {"bootstrap": 50, "permutations": 100},
}


def write(folder: Path, **changes: Any) -> None:
    """Writes the small demo's YAML files; `changes` set keys by their path, with __ for the dots."""
    raw = project.parameters("demo")
    for path, values in SMALL.items():
        project.change(raw["tasks"]["demo"], {f"{path}.{key}": value for key, value in values.items()})
    project.change(raw, {path.replace("__", "."): value for path, value in changes.items()})
    project.write(folder, raw)


def command(name: str) -> Command:
    return importlib.import_module(f"stages.{name}").main


def stage(name: str, algorithm: str = "a_lol") -> Result:
    """Runs one stage in the current folder, in this process."""
    arguments = ["--task", "demo"] + (["--algorithm", algorithm] if name in FROM_TRAIN else [])
    return CliRunner().invoke(command(name), arguments)


def run(names: Sequence[str], algorithm: str = "a_lol") -> None:
    """Runs stages one after the other; each must succeed."""
    for name in names:
        result = stage(name, algorithm)
        assert result.exit_code == 0, f"{name}: {result.output} {result.exception!r}"


def made(folder: Path, names: Sequence[str], **changes: Any) -> Path:
    """The folder, as a small project in which these stages have run: what tests of a module share."""
    write(folder, **changes)
    with contextlib.chdir(folder):
        run(names)
    return folder


def error(name: str, algorithm: str = "a_lol") -> str:
    """The one line with which a stage refuses its input."""
    result = stage(name, algorithm)
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert result.exit_code == 1, f"{result.output} {result.exception!r}"
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


def summary() -> dict[str, Any]:
    return json.loads(Path("metrics/summary.json").read_text(encoding="utf-8"))


def read_training(algorithm: str = "a_lol") -> dict[str, Any]:
    return json.loads(Path("models/demo", algorithm, "training.json").read_text(encoding="utf-8"))
