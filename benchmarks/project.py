"""Project folders with parameters of their own, in which stages run as they do for a user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]


def parameters() -> dict[str, Any]:
    """The project's params.yaml."""
    return YAML().load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def change(table: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Sets keys by their dotted path."""
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        place = table
        for part in parents:
            place = place.setdefault(part, {})
        place[leaf] = value


def write(folder: Path, raw: dict[str, Any]) -> None:
    """params.yaml of a project at `folder`."""
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(raw, file)


def run(folder: Path, stage: str, task: str, algorithm: str | None = None) -> dict[str, float]:
    """Runs a stage in a process of its own; its seconds and peak_memory_mb, as it reports them."""
    command = [sys.executable, "-m", f"stages.{stage}", "--task", task]
    command += ["--algorithm", algorithm] if algorithm else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-1000:]}")
    return json.loads((folder / "metrics" / "cost" / f"{stage}.json").read_text(encoding="utf-8"))
