"""Every run of a task side by side: versions of the project -> runs, and groups that differ in more than their seed.

Works on what `alol.evaluation.repository` reads and `alol.evaluation.revisions` makes of it; the tables are in
`alol.evaluation.comparison`, runs that a sweep has left as files in `alol.evaluation.results`. Rewards mean the same
under one Basis only.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from alol.base.errors import InputError
from alol.evaluation.paired import Prompts
from alol.evaluation.revisions import UNKNOWN, Basis, Revision, flat, settings, text

SUMMARY = "metrics/summary.json"
POLICY = "policy.all."
FIRST = ("policy.all.reward", "reference.all.reward", "delta.all.reward", "policy.macro.reward")
LAST = (
    "validation.policy.reward", "discarded", "selected", "value_mse", "value_learnable",
    "filter.precision", "filter.recall", "filter.base_rate",
)  # fmt: skip
UNSET = ("null", "auto")
SUMMARIES = ("gold.", "reference.", "policy.", "validation.", "checkpoints.")  # parts of a summary
Row = Mapping[str, Any]  # `name`, `rev`, `state`, `date`, `task`, `algorithm`, `seed`, and the summary by dotted keys


class Unusable(NamedTuple):
    """Why a row counts for nothing: what such rows are called together, and the reason for this one."""

    kind: str
    reason: str


class LeftOut(NamedTuple):
    """A row or a file that is in no table."""

    name: str
    kind: str
    reason: str


UNFINISHED, OTHER_TASK, WITHOUT = "unfinished", "of other tasks", f"without {SUMMARY}"
OLDER, STALE = "of other versions of the project", "whose metrics are not of their parameters"
REPEATED, DIFFERENT, DAMAGED = "repeated", "repeated with other results", "that cannot be read"


@dataclass(frozen=True)
class Run:
    """One finished run: `settings` are its effective parameters but the seed, `metrics` the numbers of its summary.

    `made`: the revision or commit of what made it. `cost`: stage -> seconds and memory, where that was kept.
    """

    name: str
    algorithm: str
    seed: str
    settings: dict[str, str]
    metrics: dict[str, float]
    summary: dict[str, float]  # the numbers of metrics/summary.json, by dotted key
    basis: Basis = UNKNOWN
    made: str = ""
    date: str = ""
    cost: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
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
        """Algorithm and settings; what is not set, or left to the algorithm, is not named."""
        names = [f"{name}={value}" for name, value in self.settings.items() if value not in UNSET]
        return " ".join([self.algorithm, *names, *([f"[{self.tag}]"] if self.tag else [])])

    def values(self, metric: str) -> list[float]:
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]


def collect(
    rows: Iterable[Row], task: str, revisions: Mapping[str, Revision | Unusable]
) -> tuple[list[Run], list[LeftOut]]:
    """The task's finished runs, each once, and the rows left out.

    `revisions` maps a row's `rev` to its parameters, or to the reason for which its metrics count for nothing.
    """
    runs: dict[tuple[Any, ...], Run] = {}
    left_out: list[LeftOut] = []
    for row in rows:
        found, of = metrics(row), revisions.get(row["rev"], Unusable(OLDER, "it has no parameters"))
        if state := row.get("state"):
            why: Unusable | None = Unusable(UNFINISHED, state)
        elif isinstance(of, Unusable):
            why = of
        elif (why := unusable(row, task, found)) is None:
            run = Run(
                row["name"], str(row["algorithm"]), text(row["seed"]), settings(of.params), found, numbers(row),
                of.basis, row["rev"][:9], row["date"],
            )  # fmt: skip
            first = runs.setdefault((run.algorithm, run.seed, tuple(run.settings.items())), run)
            if first is run:
                continue
            why = _repeated(run, first)
        if why is not None:
            left_out.append(LeftOut(row["name"], *why))
    return list(runs.values()), left_out


def _repeated(run: Run, first: Run) -> Unusable:
    reason = f"same parameters and seed as {first.name}"
    if _same(first, run):
        return Unusable(REPEATED, reason)
    return Unusable(DIFFERENT, f"{reason}, with other results: other code, data or machine")


def _same(first: Run, run: Run) -> bool:
    """Whether both have the same results; one of an earlier version may lack a metric."""
    return all(first.metrics[key] == run.metrics[key] for key in first.metrics.keys() & run.metrics.keys())


def together(runs: Sequence[Run], results: Iterable[Run]) -> tuple[list[Run], list[LeftOut]]:
    """DVC's runs and those of result files; one that is both counts once. The second: the repetitions.

    With the same parameters and seed they are two runs where their references, or their test sets, are not the same.
    """
    found = {(run.algorithm, run.seed, tuple(run.settings.items()), run.basis): run for run in runs}
    left_out = []
    for run in results:
        key = (run.algorithm, run.seed, tuple(run.settings.items()))
        unknown = found.get((*key, UNKNOWN))
        first = found.setdefault((*key, run.basis), unknown or run)
        if first is not run:
            if first.prompts is None and _same(first, run):
                with_prompts = dataclasses.replace(first, prompts=run.prompts)
                found.update({place: with_prompts for place, one in found.items() if one is first})
            left_out.append(LeftOut(run.name, *_repeated(run, first)))
    return list({id(run): run for run in found.values()}.values()), left_out


def by_basis(runs: Iterable[Run]) -> dict[Basis, list[Run]]:
    """The runs that may be compared with each other, the most first."""
    found: dict[Basis, list[Run]] = {}
    for run in runs:
        found.setdefault(run.basis, []).append(run)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0].short)))


def unusable(row: Row, task: str, found: Mapping[str, float]) -> Unusable | None:
    """Why a finished row cannot be compared, as far as its own numbers and names say; None when it can."""
    if row.get("task") != task:
        return Unusable(OTHER_TASK, f"task {row['task']}" if row.get("task") else "it names no task")
    if FIRST[0] not in found or row.get("algorithm") is None or row.get("seed") is None:
        return Unusable(WITHOUT, f"no {SUMMARY}")
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
