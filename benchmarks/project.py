"""Project folders with parameters of their own, in which stages run as they do for a user.

The parameters of a whole project are one dict here: the keys of params.yaml, `defaults` (what tasks share, joined) and
`tasks` (name -> tasks/<name>.yaml).
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from alol.config import yaml_files

ROOT = Path(__file__).parents[1]


def parameters(*tasks: str, root: Path = ROOT) -> dict[str, Any]:
    """Those of the project at `root`, with these tasks (all, where none is named)."""
    names = tasks or tuple(yaml_files.task_names(root))
    return copy.deepcopy(_own(names)) if root == ROOT else _read(names, root)


@cache
def _own(names: tuple[str, ...]) -> dict[str, Any]:
    return _read(names, ROOT)


def _read(names: tuple[str, ...], root: Path) -> dict[str, Any]:
    return {
        **yaml_files.read(root / yaml_files.PARAMS),
        "defaults": yaml_files.read_defaults(root),
        "tasks": {name: yaml_files.read_task(name, root) for name in names},
    }


def change(table: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Sets keys by their dotted path."""
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        place = table
        for part in parents:
            place = place.setdefault(part, {})
        place[leaf] = value


def write(folder: Path, raw: Mapping[str, Any]) -> None:
    """The YAML files of a project at `folder`; files of other tasks are removed."""
    for old in (folder / "tasks").glob("*.yaml"):
        old.unlink()
    (folder / "tasks/shared").mkdir(parents=True, exist_ok=True)
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # components stay in their order
    for name, table in files(raw).items():
        with (folder / name).open("w", encoding="utf-8") as file:
            yaml.dump(table, file)


def files(raw: Mapping[str, Any]) -> dict[str, Any]:
    """File -> its content."""
    defaults = dict(raw["defaults"])
    rewards, clean = defaults.pop("rewards"), dict(defaults.get("clean") or {})
    shared = {key: clean.pop(key) for key in ("formats", "label_texts") if key in clean}
    return {
        "params.yaml": {key: value for key, value in raw.items() if key not in ("defaults", "tasks")},
        "tasks/defaults.yaml": defaults | ({"clean": clean} if "clean" in defaults else {}),
        "tasks/shared/clean.yaml": shared,
        "tasks/shared/rewards.yaml": rewards,
        **{f"tasks/{name}.yaml": table for name, table in raw["tasks"].items()},
    }


def run(folder: Path, stage: str, task: str, algorithm: str | None = None) -> dict[str, float]:
    """Runs a stage in a process of its own; its seconds and peak_memory_mb, as it reports them."""
    command = [sys.executable, "-m", f"stages.{stage}", "--task", task]
    command += ["--algorithm", algorithm] if algorithm else []
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-1000:]}")
    return json.loads((folder / "metrics" / "cost" / f"{stage}.json").read_text(encoding="utf-8"))
