"""Every run of a task side by side: rows of DVC's experiment table -> groups that differ in more than their seed.

Works on the flat rows of `dvc.api.exp_show` (one dict per run, metrics under dotted keys, missing ones None) and on the
YAML files of each row's revision; reading them is in the command, the tables are in `alol.evaluation.comparison`, runs
that a sweep has left as files in `alol.evaluation.results`. Rewards mean the same under one Basis only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from alol.base.errors import InputError
from alol.config import params, paths, yaml_files
from alol.config.params import Params
from alol.config.yaml_files import PARAMS, TASKS

SUMMARY = "metrics/summary.json"
POLICY = "policy.all."
FIRST = ("policy.all.reward", "reference.all.reward", "delta.all.reward", "policy.macro.reward")
LAST = (
    "discarded", "selected", "value_mse", "value_learnable", "filter.precision", "filter.recall", "filter.base_rate",
)  # fmt: skip
SUMMARIES = ("gold.", "reference.", "policy.", "validation.", "checkpoints.")  # parts of a summary
# Beside the run's identity: `launch`, `judge` and `aggregate` change neither what is learned nor a mean reward.
IGNORED = ("task", "seed", "algorithm", "launch", "judge", "aggregate")
Row = Mapping[str, Any]


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


@dataclass(frozen=True)
class Run:
    """One finished run: `settings` are its effective parameters but the seed, `metrics` the numbers of its summary.

    `made`: the revision or commit of what made it.
    """

    name: str
    algorithm: str
    seed: str
    settings: dict[str, str]
    metrics: dict[str, float]
    summary: dict[str, float]  # the numbers of metrics/summary.json, by dotted key
    basis: Basis = Basis()
    made: str = ""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    algorithm: str
    settings: dict[str, str]  # those in which groups differ
    runs: list[Run]
    tag: str = ""  # of its Basis, where there are several

    @property
    def label(self) -> str:
        names = [f"{name}={value}" for name, value in self.settings.items()]
        return " ".join([self.algorithm, *names, *([f"[{self.tag}]"] if self.tag else [])])

    def values(self, metric: str) -> list[float]:
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]


def name(row: Row) -> str:
    """What the user calls this row of the experiment table."""
    return str(row.get("Experiment") or row.get("rev"))


def plain(row: Row) -> dict[str, Any]:
    """Without the file names that DVC writes before keys found in several files; other metric files are dropped."""
    result = {}
    for key, value in row.items():
        file, _, rest = key.rpartition(":")
        if not file or file in (SUMMARY, str(PARAMS)):
            result[rest] = None if value == "None" else value
    return result


@dataclass(frozen=True)
class Revision:
    """The parameters that a row of the table has: merged, and as its YAML files have them (file -> table, md5)."""

    params: Params
    files: Mapping[str, Mapping[str, Any]]
    digests: Mapping[str, str]
    basis: Basis = Basis()


def files_of(task: str) -> list[str]:
    """The YAML files that hold the parameters of a task."""
    return [str(path) for path in (PARAMS, TASKS / f"{task}.yaml", *yaml_files.SHARED)]


def revision(contents: Mapping[str, bytes | None], task: str) -> Revision | str:
    """From the contents of the YAML files (None: no such file), or why this version cannot read them."""
    names = files_of(task)
    given = {name: contents.get(name) for name in names}
    try:
        files = {name: _parsed(text, Path(name)) for name, text in given.items() if text is not None}
        if yaml_files.OLD_KEYS & set(files.get(names[0], {})):
            return f"{PARAMS} is of an older layout"
        if lacking := [name for name in names if name not in files]:
            return f"it has no {lacking[0]}"
        raw, own, *shared = (files[name] for name in names)
        found = params.merged(yaml_files.checked(raw), yaml_files.joined(*shared), own, task, None)
        return Revision(found, files, {name: hashlib.md5(text).hexdigest() for name, text in given.items() if text})
    except InputError:
        return "its parameters are of another version of the project, with other keys"


_parsed = cache(yaml_files.parse)  # most revisions have most files in common


def settings(found: Params) -> dict[str, str]:
    """The parameters that matter to what a run learns, by dotted key."""
    return settings_of(dataclasses.asdict(found), found.algorithm)


def settings_of(tables: Mapping[str, Any], algorithm: str) -> dict[str, str]:
    """As `settings`, from the parameters as plain tables."""
    tables = {**tables, "algorithms": {algorithm: tables["hyperparameters"]}}
    ignored = (*IGNORED, "hyperparameters")
    return dict(sorted(_leaves({key: table for key, table in tables.items() if key not in ignored}).items()))


def basis(lock: bytes | None, found: Params) -> Basis:
    """The Basis of the run that dvc.lock (its content) tells of."""
    stages = yaml_files.parse(lock, Path("dvc.lock")).get("stages", {}) if lock else {}
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


def _text(value: Any) -> str:
    """One notation, since DVC gives 1, 1.0 and "1" for the same parameter."""
    try:
        return f"{float(str(value)):.12g}"
    except ValueError:
        return str(value)


def stale(found: Revision, lock: bytes) -> str | None:
    """Why the metrics beside dvc.lock (its content) are not those of the revision's parameters; None when they are.

    A file of parameters that was edited or committed without a run stands beside the metrics of the run before.
    """
    stages = yaml_files.parse(lock, Path("dvc.lock")).get("stages", {})
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
    return {name: _text(item) for name, item in flat(value, key).items() if item not in (None, [], "[]")}


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Dotted key -> value of nested tables."""
    if not isinstance(value, Mapping):
        return {key: value}
    join = f"{key}." if key else ""
    return {name: leaf for inner, item in value.items() for name, leaf in flat(item, f"{join}{inner}").items()}


def collect(
    rows: Iterable[Row], task: str, revisions: Mapping[str, Revision | str]
) -> tuple[list[Run], list[tuple[str, str]]]:
    """The task's finished runs, each once, and (name, reason) of the rows left out.

    `revisions` maps a row's `rev` to its parameters, or to the reason for which its metrics count for nothing.
    """
    runs: dict[tuple[Any, ...], Run] = {}
    left_out: list[tuple[str, str]] = []
    for raw in rows:
        row = plain(raw)
        found, of = metrics(row), revisions.get(str(row.get("rev")), "it has no parameters")
        reason = _unusable(row, task, found)
        if reason is None and isinstance(of, str):
            reason = of
        elif reason is None:
            which = name(row), str(row["algorithm"]), _text(row["seed"])
            run = Run(*which, settings(of.params), found, numbers(row), of.basis, str(row.get("rev"))[:9])
            key = (run.algorithm, run.seed, tuple(run.settings.items()))
            first = runs.setdefault(key, run)
            if first is run:
                continue
            other = "" if first.metrics == run.metrics else ", with other results: other code, data or machine"
            reason = f"same parameters and seed as {first.name}{other}"
        left_out.append((name(row), reason))
    return list(runs.values()), left_out


def together(runs: Sequence[Run], results: Iterable[Run]) -> tuple[list[Run], list[tuple[str, str]]]:
    """DVC's runs and those of result files; one that is both counts once. The second: (name, reason) of repetitions.

    With the same parameters and seed they are two runs where their references, or their test sets, are not the same.
    """
    found = {(run.algorithm, run.seed, tuple(run.settings.items()), run.basis): run for run in runs}
    left_out = []
    for run in results:
        key = (run.algorithm, run.seed, tuple(run.settings.items()))
        unknown = found.get((*key, Basis()))
        first = found.setdefault((*key, run.basis), unknown or run)
        if first is not run:
            other = "" if first.metrics == run.metrics else ", with other results: other code, data or machine"
            left_out.append((run.name, f"same parameters and seed as {first.name}{other}"))
    return list({id(run): run for run in found.values()}.values()), left_out


def by_basis(runs: Iterable[Run]) -> dict[Basis, list[Run]]:
    """The runs that may be compared with each other, the most first."""
    found: dict[Basis, list[Run]] = {}
    for run in runs:
        found.setdefault(run.basis, []).append(run)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0].short)))


def _unusable(row: Row, task: str, found: Mapping[str, float]) -> str | None:
    """Why a row cannot be compared; None when it can."""
    state = str(row.get("State") or "").lower()
    if state in ("queued", "running"):
        return state
    if state == "failed":
        return "failed"
    if row.get("task") != task:
        return f"task {row['task']}" if row.get("task") else "it names no task"
    if FIRST[0] not in found or row.get("algorithm") is None or row.get("seed") is None:
        return f"no {SUMMARY}"
    return None


def numbers(row: Row) -> dict[str, float]:
    """The numbers of metrics/summary.json, by dotted key."""
    return _finite({key: value for key, value in row.items() if key.startswith(SUMMARIES)})


def metrics(row: Row) -> dict[str, float]:
    """Those that the comparison shows."""
    return _finite({key: value for key, value in row.items() if key.startswith(POLICY) or key in (*FIRST, *LAST)})


def _finite(row: Row) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def group(runs: Sequence[Run], tag: str = "") -> list[Group]:
    """Groups of runs by algorithm and settings, best mean reward first, named by what they differ in."""
    members: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        members.setdefault((run.algorithm, *run.settings.items()), []).append(run)
    found = list(members.values())
    names = _differing([same[0] for same in found])
    groups = [
        Group(same[0].algorithm, _chosen(same[0], names), sorted(same, key=lambda run: (len(run.seed), run.seed)), tag)
        for same in found
    ]
    return ranked(groups)


def ranked(groups: Iterable[Group]) -> list[Group]:
    """Best mean reward first."""
    return sorted(groups, key=lambda g: (-statistics.fmean(g.values(FIRST[0])), g.label))


def differences(bases: Mapping[Basis, Sequence[Run]]) -> dict[Basis, dict[str, str]]:
    """The settings in which the runs under one Basis agree and those under another have something else."""
    names = [name for name in _differing([runs[0] for runs in bases.values()]) if not name.startswith("algorithms.")]
    alike = [n for n in names if all(len({run.settings.get(n) for run in runs}) == 1 for runs in bases.values())]
    return {one: _chosen(runs[0], alike) for one, runs in bases.items()}


def checkpoint(name: str, summary: Mapping[str, Any]) -> Group:
    """A model that others trained, from the summary that evaluate_checkpoint wrote; InputError where it is none."""
    found = metrics(flat(summary))
    if FIRST[0] not in found:
        raise InputError(f"the summary of checkpoint '{name}' has no {FIRST[0]}; evaluate it again")
    return Group(name, {}, [Run(name, name, "", {}, found, {})])


def _differing(runs: Sequence[Run]) -> list[str]:
    """Settings in which the runs differ; those of an algorithm are compared among its own runs."""
    names = sorted({key for run in runs for key in run.settings})
    return [
        key
        for key in names
        if len({run.settings.get(key) for run in runs if not key.startswith("algorithms.") or _own(run, key)}) > 1
    ]


def _own(run: Run, key: str) -> bool:
    return key.startswith(f"algorithms.{run.algorithm}.")


def _chosen(run: Run, names: Sequence[str]) -> dict[str, str]:
    """The settings named, under the shortest ends of their keys that tell them apart."""
    mine = [key for key in names if not key.startswith("algorithms.") or _own(run, key)]
    return {_short(key, names): run.settings.get(key, "null") for key in mine}


def _short(key: str, names: Sequence[str]) -> str:
    parts = key.split(".")
    if parts[0] == "algorithms":
        return parts[-1]
    for count in range(1, len(parts)):
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in names) == 1:
            return end
    return key
