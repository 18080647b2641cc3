"""What a run was made with: the parameters and the lock of a revision, as its files have them.

Reading the files is in the command, rows and groups of runs are in `alol.evaluation.experiments`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from alol.base.errors import InputError
from alol.config import params, paths, yaml_files
from alol.config.params import Params
from alol.config.yaml_files import PARAMS, TASKS

# Keys that came later, with the value that was fixed before: a run of then and one of now with it are alike.
LATER = (
    (re.compile(r"scoring\.part_rows"), "2048"),
    (re.compile(r"(test_)?rewards\.[^.]+(\.scorer)*\.precision"), "fp32"),
)
# Beside the run's identity: `launch`, `judge` and `aggregate` change neither what is learned nor a mean reward.
IGNORED = ("task", "seed", "algorithm", "launch", "judge", "aggregate")


@dataclass(frozen=True)
class Basis:
    """Digests of what runs must share for their rewards to be compared: the reference, and the test set with its
    rewards. None: not known."""

    reference: str | None = None
    test: str | None = None

    @property
    def label(self) -> str:
        found = (("reference", self.reference), ("test set and rewards", self.test))
        return ", ".join(f"{what} {one[:8] if one else 'not known'}" for what, one in found)

    @property
    def short(self) -> str:
        return "-".join((one or "unknown")[:8] for one in (self.reference, self.test))


UNKNOWN = Basis()


@dataclass(frozen=True)
class Revision:
    """The parameters that a row of the table has: merged, and as its YAML files have them (file -> table, md5)."""

    params: Params
    files: Mapping[str, Mapping[str, Any]]
    digests: Mapping[str, str]
    basis: Basis = UNKNOWN


def files_of(task: str) -> list[str]:
    """The YAML files that hold the parameters of a task."""
    return [str(path) for path in (PARAMS, TASKS / f"{task}.yaml", *yaml_files.SHARED)]


def revision(contents: Mapping[str, bytes | None], task: str) -> Revision | str:
    """From the contents of the YAML files (None: no such file), or why this version cannot read them."""
    names = files_of(task)
    given = {name: contents.get(name) for name in names}
    try:
        if (text := given[names[0]]) is not None and yaml_files.OLD_KEYS & set(parsed(text, PARAMS)):
            return f"{PARAMS} is of an older layout"
        if lacking := [name for name in names if given[name] is None]:
            return f"it has no {lacking[0]}"
        files = {name: parsed(text, Path(name)) for name, text in given.items() if text is not None}
        raw, own, *shared = (files[name] for name in names)
        found = params.merged(yaml_files.checked(raw), yaml_files.joined(*shared), own, task, None)
        return Revision(found, files, {name: hashlib.md5(text).hexdigest() for name, text in given.items() if text})
    except InputError:
        return "its parameters are of another version of the project, with other keys"


parsed = cache(yaml_files.parse)  # most revisions have most files in common, and each lock is asked twice


def settings(found: Params) -> dict[str, str]:
    """The parameters that matter to what a run learns, by dotted key."""
    return settings_of(dataclasses.asdict(found), found.algorithm)


def settings_of(tables: Mapping[str, Any], algorithm: str) -> dict[str, str]:
    """As `settings`, from the parameters as plain tables."""
    tables = {**tables, "algorithms": {algorithm: tables["hyperparameters"]}}
    ignored = (*IGNORED, "hyperparameters")
    found = _leaves({key: table for key, table in tables.items() if key not in ignored})
    return {key: value for key, value in sorted(found.items()) if not _later(key, value)}


def _later(key: str, value: str) -> bool:
    return any(value == before and name.fullmatch(key) for name, before in LATER)


def basis(lock: bytes | None, found: Params) -> Basis:
    """The Basis of the run that dvc.lock (its content) tells of."""
    stages = parsed(lock, Path("dvc.lock")).get("stages", {}) if lock else {}
    made = {
        one["path"]: one.get("md5")
        for stage in stages.values()
        for kind in ("deps", "outs")
        for one in stage.get(kind, [])
    }
    task = found.task
    inputs = [paths.clean(task) / "test.parquet", paths.annotated(task) / params.SETTINGS, paths.reward_model(task)]
    if any("python" in (one["kind"], (one.get("scorer") or {}).get("kind")) for one in found.test_rewards.values()):
        inputs.append(Path("custom"))
    of_test = [made.get(str(path)) for path in inputs]
    reward = json.dumps([of_test, _leaves(dataclasses.asdict(found.reward))], sort_keys=True)
    test = hashlib.sha256(reward.encode()).hexdigest()[:16] if all(of_test) else None
    return Basis(made.get(str(paths.reference(task))), test)


def text(value: Any) -> str:
    """One notation, since DVC gives 1, 1.0 and "1" for the same parameter; of a list of numbers as YAML has it."""
    if isinstance(value, list) and all(item is None or isinstance(item, int | float) for item in value):
        return f"[{', '.join('null' if item is None else text(item) for item in value)}]"
    try:
        return f"{float(str(value)):.12g}"
    except ValueError:
        return str(value)


def stale(found: Revision, lock: bytes) -> str | None:
    """Why the metrics beside dvc.lock (its content) are not those of the revision's parameters; None when they are.

    A file of parameters that was edited or committed without a run stands beside the metrics of the run before.
    """
    stages = parsed(lock, Path("dvc.lock")).get("stages", {})
    made = {out["path"]: out.get("md5") for stage in stages.values() for out in stage.get("outs", [])}
    generated = [path for path in made if Path(path).is_relative_to(paths.generations("", ""))]
    if generated and str(paths.generations(found.params.task, found.params.algorithm)) not in generated:
        return "its metrics were made for another task or algorithm; run `dvc repro`"
    for stage_name, stage in stages.items():
        for file, values in stage.get("params", {}).items():
            for key, value in values.items():
                if _leaves(value, key) != _leaves(_at(found.files.get(file, {}), key), key):
                    return f"its metrics were made with another value of {key}; run `dvc repro`"
        for dep in stage.get("deps", []):
            if found.digests.get(dep["path"], dep.get("md5")) != dep.get("md5"):
                return f"its metrics were made with another {dep['path']}; run `dvc repro`"
            if made.get(dep["path"], dep.get("md5")) != dep.get("md5"):
                return f"stage {stage_name} did not run after {dep['path']} changed; run `dvc repro`"
    return None


def _at(table: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        table = table.get(part) if isinstance(table, Mapping) else None
    return table


def _leaves(value: Any, key: str = "") -> dict[str, str]:
    """Dotted key -> text of the values in nested tables; without nulls and empty ones."""
    return {name: text(item) for name, item in flat(value, key).items() if item not in (None, [], "[]")}


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Dotted key -> value of nested tables."""
    if not isinstance(value, Mapping):
        return {key: value}
    join = f"{key}." if key else ""
    return {name: leaf for inner, item in value.items() for name, leaf in flat(item, f"{join}{inner}").items()}
