"""Which runs a sweep has: algorithms x seeds x tasks x settings, as parameter files that differ from the project's.

A change is written as for `dvc exp run -S`: `FILE:KEY`, or `KEY` alone, which stands in params.yaml or else in the
task's file. A key that a file does not have is added.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alol.base.errors import InputError
from alol.checks import parameters
from alol.config import params, yaml_files
from alol.config.params import Params
from alol.config.yaml_files import KEYS, PARAMS, TASKS
from alol.evaluation import chosen, results
from alol.evaluation.revisions import IGNORED

Changes = Mapping[str, Any]
COLUMNS = ("tasks", "algorithms", "seeds", "settings")
OWN = {"task": "tasks", "algorithm": "algorithms", "seed": "seeds"}  # keys of params.yaml that are columns


@dataclass(frozen=True)
class Planned:
    """One run: its changes to the parameter files, and the parameters that it has with them."""

    params: Params
    changes: Changes

    @property
    def path(self) -> Path:
        """Where its result lies, below the project's folder."""
        return results.path(self.params)

    @property
    def name(self) -> str:
        """As its files are called."""
        return f"{self.params.task}-{self.path.stem}"

    @property
    def stages(self) -> str:
        """As those of the stages before training are called."""
        return f"{self.params.task}-{self.shared}"

    @property
    def label(self) -> str:
        found = self.params
        named = [f"{key}={value}" for key, value in self.changes.items()]
        return " ".join([found.task, found.algorithm, f"seed {found.seed}", *named])

    @property
    def shared(self) -> str:
        """A digest of what the stages before training depend on: runs with the same one share these stages."""
        return results.shared_digest(self.params)

    def write(self, root: Path, target: Path) -> None:
        """The parameter files of the run below `target`, from those of the project at `root`."""
        found = self.params
        _write(root, target, {key: getattr(found, key) for key in OWN}, self.changes)


def read(path: Path) -> list[dict[str, list[Any]]]:
    """The tables of a YAML file: its columns, or `tables`, a list of such; raises InputError naming what is wrong."""
    raw = yaml_files.read(path)
    tables = raw["tables"] if list(raw) == ["tables"] else [raw]
    if not isinstance(tables, list) or not tables:
        raise InputError(f"{path}: tables must be a list of tables with the keys {', '.join(COLUMNS)}")
    for one in tables:
        if not isinstance(one, dict) or (unknown := sorted(set(map(str, one)) - set(COLUMNS))):
            named = f"the key {unknown[0]} is unknown" if isinstance(one, dict) else f"{one!r:.80} is no table"
            raise InputError(f"{path}: {named}; known keys: {', '.join(COLUMNS)}")
        for key, values in one.items():
            if not isinstance(values, list) or not values:
                raise InputError(f"{path}: {key} is {values!r:.80}, but must be a list")
        for changes in one.get("settings", []):
            if not isinstance(changes, dict):
                raise InputError(
                    f"{path}: settings has {changes!r:.80}, but must be a list of tables, {{}} for no change"
                )
    return tables


def alternatives(assignments: Iterable[str]) -> list[Changes]:
    """The settings of `KEY=VALUE[,VALUE...]`: every combination of the values, which are written as in YAML."""
    columns = []
    for text in assignments:
        key, equals, values = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set {text}: write KEY=VALUE, or FILE:KEY=VALUE, with commas between several values")
        found = chosen.values(values, f"--set {text}")
        columns.append([(key.strip(), value) for value in found] or [(key.strip(), None)])
    return [dict(one) for one in itertools.product(*columns)]


def planned(tables: Sequence[Mapping[str, Sequence[Any]]], root: Path = Path()) -> list[Planned]:
    """The runs of the tables, each once: all algorithms of a seed before the next one. A column that a table leaves out
    is what params.yaml says.

    Raises InputError, a line for each mistake, where a run's parameters are wrong.
    """
    raw = yaml_files.read_params(root)
    usual = {"tasks": [raw["task"]], "algorithms": [raw["algorithm"]], "seeds": [raw["seed"]], "settings": [{}]}
    found: dict[Path, Planned] = {}
    mistakes: dict[str, None] = {}
    with tempfile.TemporaryDirectory() as folder:
        for table in tables:
            columns = {**usual, **table}
            for task, changes, seed, algorithm in itertools.product(
                *(columns[key] for key in ("tasks", "settings", "seeds", "algorithms"))
            ):
                try:
                    _write(root, Path(folder), {"task": task, "algorithm": algorithm, "seed": seed}, changes)
                    if problems := parameters.problems(root=Path(folder)):
                        raise InputError(problems[0])
                    one = Planned(params.load(root=Path(folder)), changes)
                    found.setdefault(one.path, one)
                except InputError as error:
                    mistakes[f"{task} {algorithm} {' '.join(f'{k}={v}' for k, v in changes.items())}: {error}"] = None
    if mistakes:
        raise InputError("; ".join(mistakes))
    return list(found.values())


def _write(root: Path, target: Path, own: Mapping[str, Any], changes: Changes) -> None:
    """Parameter files with `changes` and the run's OWN keys below `target`; other files stay the same to the byte."""
    _copy(root, target)
    task, of_files = own["task"], {PARAMS: dict(own)}
    for key, value in changes.items():
        file, key = _place(key, task)
        if (first := key.partition(".")[0]) in IGNORED:
            instead = f"it is the column {OWN[first]}" if first in OWN else "no run learns otherwise by it"
            raise InputError(f"settings may not name {first}: {instead}")
        of_files.setdefault(file, {})[key] = value
    for file, values in of_files.items():
        yaml_files.read_task(task, target)  # names a task that there is not
        content = yaml_files.read(target / file)
        for key, value in values.items():
            _set(content, key, value, file)
        _dump(target / file, content)


def _copy(root: Path, target: Path) -> None:
    """params.yaml and tasks/, as the project has them."""
    shutil.rmtree(target / TASKS, ignore_errors=True)
    shutil.copytree(root / TASKS, target / TASKS)
    shutil.copyfile(root / PARAMS, target / PARAMS)


def _place(key: str, task: Any) -> tuple[Path, str]:
    file, colon, rest = key.rpartition(":")
    if not colon:
        return (PARAMS if key.partition(".")[0] in KEYS else TASKS / f"{task}.yaml"), key
    path = Path(file)
    if path != PARAMS and (path.parts[:1] != TASKS.parts or ".." in path.parts):
        raise InputError(f"settings: {key}: {file} is no parameter file; name {PARAMS} or a file of {TASKS}/")
    return path, rest


def _set(content: dict[str, Any], key: str, value: Any, file: Path) -> None:
    *parents, leaf = key.split(".")
    for part in parents:
        inner = content.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError(f"settings: {file}: {key}: {part} is {inner!r:.80}, no table")
        content = inner
    content[leaf] = value


def _dump(path: Path, content: dict[str, Any]) -> None:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # reward components stay in their order
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)


def by_shared(runs: Iterable[Planned]) -> Iterator[tuple[Planned, list[Planned]]]:
    """One run of those that share the stages before training, and all of them, in the order of the first ones."""
    found: dict[tuple[str, str], list[Planned]] = {}
    for run in runs:
        found.setdefault((run.params.task, run.shared), []).append(run)
    for same in found.values():
        yield same[0], same
