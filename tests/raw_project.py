"""A project folder with one task of the project's own params.yaml, for tests of the stages download and clean."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from click import Command
from click.testing import CliRunner, Result

from benchmarks.project import parameters, write

SYSTEM = "A chat."
HHA = {
    "train": "archive/train.json",
    "validation": "archive/dev.json",
    "test": {"harmless_base": "archive/test.json"},
    "excluded": None,
    "contaminated": "drop",
    "stored": ["train", "validation", "test"],
    "drop_colon": True,
    "system": SYSTEM,
}


def project(folder: Path, source: dict[str, Any], clean: dict[str, Any]) -> None:
    """Writes the YAML files of a project with the one task `mine`."""
    params = parameters("demo")
    sections = ["test_rewards", "reward", "policy", "reference", "generate", "value", "train", "aggregate"]
    rewards = {"concise": {"kind": "python", "function": "custom.example.concise"}}
    mine = {"source": source, "clean": clean, "rewards": rewards, **{name: {} for name in sections}}
    params["task"], params["tasks"] = "mine", {"mine": mine}
    write(folder, params)


def run(stage: Command) -> Result:
    return CliRunner().invoke(stage, ["--task", "mine"])


def error_line(stage: Command) -> str:
    """The one line a failing stage prints; nothing may come with it."""
    result = run(stage)
    lines = result.stderr.splitlines()
    assert result.exit_code == 1, result.output
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


def dialogue(question: str, responses: list[str], rewards: list[float] | None = None) -> dict[str, Any]:
    """A row in the layout of PRO's archive."""
    turns = [f"<|prompter|>{question}", "<|assistant|>"]
    return {"prefix": [turns] * len(responses), "suffix": responses, "reward": rewards or [0.5] * len(responses)}


def write_lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_zip(path: Path, files: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
