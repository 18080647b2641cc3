"""Groups of runs as tables: the columns they share, means and deviations over seeds, for terminals, Markdown and csv.

What a run is, and which of them differ in their seed alone, is in `alol.evaluation.experiments`.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alol.base import errors
from alol.config.sections import Aggregate
from alol.evaluation import experiments, paired
from alol.evaluation.experiments import FIRST, LAST, POLICY, Group, Run
from alol.evaluation.figures import Group as Line
from alol.evaluation.figures import Point
from alol.evaluation.revisions import UNKNOWN, Basis
from alol.evaluation.summary import DISTANCE, align, ordered, show

APART = "Rewards under different references or test sets cannot be compared: each has a table and a figure of its own."

BY_PROMPT = "Prompt by prompt, of several seeds their mean; 95 % bootstrap intervals, p-values of random signs:"


@dataclass(frozen=True)
class Section:
    """The groups that share a Basis. Where there are several sections, each has a `title`, and a name for its files."""

    title: str
    groups: list[Group]
    suffix: str = ""
    note: str = ""  # for the figure's title
    pairs: Sequence[Sequence[str]] = ()  # its groups compared prompt by prompt, as lines of a table


def sections(runs: Sequence[Run], checkpoints: Sequence[Group]) -> list[Section]:
    """The runs by what they may be compared under, the most first; a checkpoint goes with runs of its reference."""
    bases = experiments.by_basis(runs)
    beside: dict[Basis, list[Group]] = {}
    for one in checkpoints:
        same = (
            basis
            for basis, found in bases.items()
            if any(run.metrics.get(FIRST[1]) in one.values(FIRST[1]) for run in found)
        )
        beside.setdefault(next(same, UNKNOWN), []).append(one)
    differ, several = experiments.differences(bases), len({*bases, *beside}) > 1
    found = []
    for basis in dict.fromkeys([*bases, *beside]):
        tag = basis.short if several else ""
        others = [dataclasses.replace(one, tag=tag) for one in beside.get(basis, [])]
        names = " ".join(f"{key}={value}" for key, value in differ.get(basis, {}).items())
        title = f"{basis.label[:1].upper()}{basis.label[1:]}" + (f" ({names})" if names else "")
        groups = experiments.ranked([*experiments.group(bases.get(basis, []), tag), *others])
        found.append(Section(title, groups, f"_{tag}" if found else "", f"\n{basis.label}" if several else ""))
    return found


def with_pairs(sections: Sequence[Section], against: Sequence[str], options: Aggregate) -> list[Section]:
    """The sections with their `pairs`: prompt by prompt against the reference, and the runs with the labels `against`.

    InputError where a label names no run whose rewards by prompt are known.
    """
    known = [
        [(g.label, runs) for g in one.groups if (runs := [run.prompts for run in g.runs if run.prompts])]
        for one in sections
    ]
    labels = {label for groups in known for label, _ in groups}
    for label in against:
        if label not in labels:
            raise errors.known("run with rewards by prompt (those that a sweep has left) in --against:", label, labels)
    return [
        dataclasses.replace(one, pairs=paired.lines(groups, [x for x in against if x in dict(groups)], options))
        for one, groups in zip(sections, known, strict=True)
    ]


def columns(groups: Sequence[Group]) -> list[str]:
    """The metrics that any run has: reward, reference and difference, components and the rest, what training did."""
    found = {key for group in groups for run in group.runs for key in run.metrics}
    tails = [key.removeprefix(POLICY) for key in sorted(found) if key.startswith(POLICY) and key not in FIRST]
    rest = [POLICY + tail for tail in ordered(tails) if tail not in ("reward_low", "reward_high")]
    return [*(key for key in FIRST if key in found), *rest, *(key for key in LAST if key in found)]


def spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where there are too few values."""
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def csv_rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row per group: <metric>_mean and <metric>_std over its seeds, unrounded."""
    rows = []
    for g in groups:
        other = " ".join(f"{key}={value}" for key, value in g.settings.items())
        seeds = " ".join(run.seed for run in g.runs)
        row: dict[str, Any] = {"algorithm": g.algorithm, "settings": other, "seeds": len(g.runs), "seed_list": seeds}
        row |= {"reference": g.runs[0].basis.reference, "test": g.runs[0].basis.test}
        row |= {"made_by": " ".join(dict.fromkeys(run.made.replace(" ", "_") for run in g.runs))}
        for metric in columns(groups):
            mean, std = spread(g.values(metric))
            row |= {f"{metric}_mean": mean, f"{metric}_std": std}
        rows.append(row)
    return rows


def _cells(groups: Sequence[Group], plus: str) -> list[list[str]]:
    """Header and lines as text: the mean, and the deviation after `plus` where there are several seeds."""
    names = columns(groups)
    if all(g.values("policy.macro.reward") == g.values("policy.all.reward") for g in groups):
        names = [key for key in names if key != "policy.macro.reward"]  # one test subset
    lines = [["run", "seeds", *(_title(key) for key in names)]]
    for g in groups:
        cells = []
        for key in names:
            mean, std = spread(g.values(key))
            cells.append(show(mean) + (f" {plus} {show(std)}" if std is not None else ""))
        lines.append([g.label, str(len(g.runs)), *cells])
    return lines


def _title(key: str) -> str:
    titles = {"policy.all.reward": "reward", "reference.all.reward": "reference", "delta.all.reward": "delta"}
    return titles.get(key) or key.removeprefix(POLICY).removeprefix("reward_").removeprefix("policy.")


def terminal_table(groups: Sequence[Group]) -> str:
    return align(_cells(groups, "+-"), left=1)


def markdown(sections: Sequence[Section], task: str, left_out: int) -> str:
    """A page with the tables and the figures' names, and by which commit each run was made."""
    several = len(sections) > 1
    parts = []
    for one in sections:
        title = f"## {one.title}\n\n" if several else ""
        picture = f"![Mean reward of test responses by run](compare_{task}{one.suffix}.png)\n\n"
        if frontier(one.groups):
            picture += f"![Reward and distance from the reference](frontier_{task}{one.suffix}.png)\n\n"
        pairs = f"{BY_PROMPT}\n\n{table(one.pairs)}\n\n" if one.pairs else ""
        parts.append(f"{title}{table(_cells(one.groups, '±'))}\n\n{pairs}{picture}")
    runs = [(g.label, run) for one in sections for g in one.groups for run in g.runs if run.made]
    made = "".join(f"- {label}, seed {run.seed}: {run.name}, made by {run.made}\n" for label, run in runs)
    return (
        f"# {task}: runs compared\n\n{f'{APART}{chr(10)}{chr(10)}' if several else ''}{''.join(parts)}"
        f"Mean and standard deviation over seeds, on the test prompts pooled; "
        f"a run without a deviation has one seed. `delta` is the policy's reward less the reference's; `selected` the "
        f"share of seeds in which a checkpoint beat the reference on validation. {left_out} rows of DVC's table and "
        f"files of results/ are left out (other tasks, repeated, unfinished).\n" + (f"\n{made}" if made else "")
    )


def lines(groups: Sequence[Group]) -> list[Line]:
    """What the figure shows."""
    return [Line(g.label, g.values("policy.all.reward"), spread(g.values("reference.all.reward"))[0]) for g in groups]


def frontier(groups: Sequence[Group]) -> dict[str, list[Point]]:
    """Algorithm -> its groups as points, by distance from the reference; without those that did not measure it."""
    found: dict[str, list[Point]] = {}
    for g in groups:
        if distance := g.values(f"{POLICY}{DISTANCE}"):
            settings = " ".join(f"{key}={value}" for key, value in g.settings.items())
            point = Point(statistics.fmean(distance), statistics.fmean(g.values(FIRST[0])), settings)
            found.setdefault(g.algorithm, []).append(point)
    return {name: sorted(points, key=lambda one: (one.x, one.y)) for name, points in sorted(found.items())}


def reference(groups: Sequence[Group]) -> float | None:
    """The reference's mean reward."""
    return spread([value for g in groups for value in g.values(FIRST[1])])[0]


def across(tasks: Mapping[str, Sequence[Group]]) -> list[dict[str, Any]]:
    """One row per algorithm (and settings by which a task's runs differ) over several tasks, the best mean first.

    `<task> reward` is the mean over seeds, with `std`, `reference` and `delta`; `first less last` is the difference of
    the rewards of the first and the last task. None where a task has no such run.
    """
    found = {task: {g.label: g for g in groups} for task, groups in tasks.items()}
    rows = []
    for label in dict.fromkeys(label for groups in found.values() for label in groups):
        row: dict[str, Any] = {"run": label}
        for task, groups in found.items():
            group = groups.get(label)
            for column, key in (("reward", FIRST[0]), ("reference", FIRST[1]), ("delta", FIRST[2])):
                mean, std = spread(group.values(key)) if group else (None, None)
                row[f"{task} {column}"] = mean
                if column == "reward":
                    row[f"{task} std"] = std
        first, *_, last = (row[f"{task} reward"] for task in tasks)
        row["first less last"] = None if first is None or last is None else first - last
        rows.append(row)
    rewards = {
        row["run"]: [row[f"{task} reward"] for task in tasks if row[f"{task} reward"] is not None] for row in rows
    }
    return sorted(rows, key=lambda row: (-statistics.fmean(rewards[row["run"]]), row["run"]))


def across_cells(rows: Sequence[Mapping[str, Any]], plus: str) -> list[list[str]]:
    """Header and lines of `across` as text, a deviation behind its mean."""
    names = [name for name in rows[0] if not name.endswith(" std")]
    lines = [names]
    for row in rows:
        cells = [row["run"]]
        for name in names[1:]:
            std = row.get(name.replace(" reward", " std")) if name.endswith(" reward") else None
            cells.append(show(row[name]) + (f" {plus} {show(std)}" if std is not None else ""))
        lines.append(cells)
    return lines


def table(cells: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is flush left."""
    header, *lines = cells
    ruled = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in ruled)
