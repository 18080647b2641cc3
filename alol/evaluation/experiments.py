"""Every run of a task side by side: rows of DVC's experiment table -> groups that differ in more than their seed.

Works on the flat rows of `dvc.api.exp_show` (one dict per run, metrics under dotted keys, missing ones None) and on
what `alol.evaluation.revisions` makes of each row's files; the tables are in `alol.evaluation.comparison`, runs that a
sweep has left as files in `alol.evaluation.results`. Rewards mean the same under one Basis only.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alol.base.errors import InputError
from alol.config.yaml_files import PARAMS
from alol.evaluation.paired import Prompts
from alol.evaluation.revisions import UNKNOWN, Basis, Revision, flat, settings, text

SUMMARY = "metrics/summary.json"
POLICY = "policy.all."
FIRST = ("policy.all.reward", "reference.all.reward", "delta.all.reward", "policy.macro.reward")
LAST = (
    "discarded", "selected", "value_mse", "value_learnable", "filter.precision", "filter.recall", "filter.base_rate",
)  # fmt: skip
SUMMARIES = ("gold.", "reference.", "policy.", "validation.", "checkpoints.")  # parts of a summary
Row = Mapping[str, Any]


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
    basis: Basis = UNKNOWN
    made: str = ""
    prompts: Prompts | None = None  # the rewards by prompt, where they are known


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
            which = name(row), str(row["algorithm"]), text(row["seed"])
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
        unknown = found.get((*key, UNKNOWN))
        first = found.setdefault((*key, run.basis), unknown or run)
        if first is not run:
            if first.prompts is None and first.metrics == run.metrics:
                with_prompts = dataclasses.replace(first, prompts=run.prompts)
                found.update({place: with_prompts for place, one in found.items() if one is first})
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
