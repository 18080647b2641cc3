"""Groups of runs as tables: the columns they share, means and deviations over seeds, for terminals, Markdown and csv.

What a run is, and which of them differ in their seed alone, is in `alol.evaluation.experiments`.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alol.base import errors
from alol.base.text import align, show
from alol.config.sections import Aggregate
from alol.evaluation import comparison_points, costs, experiments, foretold, ope, paired
from alol.evaluation.experiments import FIRST, LAST, POLICY, Group, LeftOut, Run
from alol.evaluation.revisions import UNKNOWN, Basis
from alol.evaluation.summary import OPE
from alol.evaluation.summary_tables import ordered

CAPTION = (
    "A point is the mean reward of one seed. Several seeds: the black mark is their mean, the light bar their range. "
    "One seed: the whiskers are the 95 % bootstrap interval over the test prompts, which says nothing of other seeds."
)
APART = "Rewards under different references or test sets cannot be compared: each has a table and a figure of its own."

COSTS = "Gain over the reference, and what it took; rollout and advantage run once for all runs that share them"
FORETOLD = "What was known without the test answers, against the test reward, over these runs"
EVERY_PAIR = (
    "Each two of them, prompt by prompt: how many others a run is better or worse than, with p-values below 0.05 after "
    "Holm's correction for all pairs"
)
BY_PROMPT = "Prompt by prompt, of several seeds their mean; 95 % bootstrap intervals, p-values of random signs:"


@dataclass(frozen=True)
class Section:
    """The groups that share a Basis. Where there are several sections, each has a `title`, and a name for its files."""

    title: str
    groups: list[Group]
    suffix: str = ""
    note: str = ""  # for the figure's title
    label: str = ""  # of its Basis
    pairs: Sequence[Sequence[str]] = ()  # its groups compared prompt by prompt, as lines of a table
    compared: Sequence[paired.Compared] = ()  # each two of its groups

    @property
    def foretold(self) -> list[foretold.Foretold]:
        """How well each estimate foretold the test rewards of its runs."""
        return foretold.table([run for group in self.groups for run in group.runs])


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
        note = f"\n{basis.label}" if several else ""
        found.append(Section(title, groups, f"_{tag}" if found else "", note, basis.label))
    return found


def with_pairs(sections: Sequence[Section], against: Sequence[str], options: Aggregate) -> list[Section]:
    """The sections with their `pairs` and what is `compared`, prompt by prompt.

    `pairs`: with the reference and with the runs that have the labels `against`; `compared`: each two runs.

    An algorithm alone is enough where only one run has it. InputError where a label names several runs, or none whose
    rewards by prompt are known.
    """
    known = [
        [(g.label, runs) for g in one.groups if (runs := [run.prompts for run in g.runs if _comparable(run)])]
        for one in sections
    ]
    labels = list(dict.fromkeys(label for groups in known for label, _ in groups))
    against = [_label(name, labels) for name in against]
    return [
        dataclasses.replace(
            one,
            pairs=paired.lines(groups, [x for x in against if x in dict(groups)], options),
            compared=paired.every_pair(groups, options),
        )
        for one, groups in zip(sections, known, strict=True)
    ]


def pair_rows(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """One row for each two groups: the difference of their rewards, its interval, and both p-values."""
    return [
        {"first": one.first, "second": one.second, **vars(one.difference), "corrected_p_value": one.corrected}
        for section in sections
        for one in section.compared
    ]


def _comparable(run: Run) -> bool:
    """Whether its rewards by prompt are known, and of which test prompts they are."""
    return run.prompts is not None and run.basis.test is not None


def _label(name: str, labels: Sequence[str]) -> str:
    """The label that is `name`, or the only one of the algorithm `name`."""
    if not labels:
        raise errors.InputError(
            "--against compares runs that `python -m stages.sweep` has left in results/; none is here"
        )
    alike = [label for label in labels if name == label] or [label for label in labels if name == label.split()[0]]
    if len(alike) != 1:
        what = "run with rewards by prompt (those that a sweep has left) in --against:"
        raise errors.known(what, name, [f'"{label}"' for label in labels])
    return alike[0]


def columns(groups: Sequence[Group]) -> list[str]:
    """The metrics that any run has: reward, reference and difference, components and the rest, what training did."""
    found = {key for group in groups for run in group.runs for key in run.metrics}
    tails = [key.removeprefix(POLICY) for key in sorted(found) if key.startswith(POLICY) and key not in FIRST]
    unlisted = {f"{OPE}.{key}" for key in ope.DETAILS} | {"reward_low", "reward_high"}
    rest = [POLICY + tail for tail in ordered(tails) if tail not in unlisted]
    return [*(key for key in FIRST if key in found), *rest, *(key for key in LAST if key in found)]


def spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where there are too few values."""
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def cell(mean: float | None, std: float | None, plus: str) -> str:
    """A mean as text, with its deviation after `plus` where there is one."""
    return show(mean) + (f" {plus} {show(std)}" if std is not None else "")


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
    if all(run.metrics.get(FIRST[3]) in (None, run.metrics.get(FIRST[0])) for g in groups for run in g.runs):
        names = [key for key in names if key != FIRST[3]]  # one test subset, as earlier versions wrote it
    lines = [["run", "seeds", *(_title(key) for key in names)]]
    for g in groups:
        lines.append([g.label, str(len(g.runs)), *(cell(*spread(g.values(key)), plus) for key in names)])
    return lines


def _title(key: str) -> str:
    titles = {"policy.all.reward": "reward", "reference.all.reward": "reference", "delta.all.reward": "delta"}
    titles["validation.policy.reward"] = "validation"
    return titles.get(key) or key.removeprefix(POLICY).removeprefix("reward_").removeprefix("policy.")


def terminal_table(groups: Sequence[Group]) -> str:
    return align(_cells(groups, "+-"), left=1)


def markdown(sections: Sequence[Section], task: str, left_out: Sequence[LeftOut]) -> str:
    """A page with the tables and the figures' names; by which commit, when and for what each run was made."""
    several = len(sections) > 1
    parts = []
    for one in sections:
        title = f"## {one.title}\n\n" if several else ""
        picture = f"![Mean reward of test responses by run](compare_{task}{one.suffix}.png)\n\n"
        if comparison_points.frontier(one.groups):
            picture += f"![Reward and distance from the reference](frontier_{task}{one.suffix}.png)\n\n"
        pairs = f"{BY_PROMPT}\n\n{table(one.pairs)}\n\n" if one.pairs else ""
        if one.compared:
            named = f"pairs_{task}{one.suffix}.png"
            pairs += f"{EVERY_PAIR}:\n\n{table(paired.tally(one.compared))}\n\n![Who beats whom]({named})\n\n"
        if known := one.foretold:
            pairs += f"{FORETOLD}:\n\n{table(foretold.cells(known))}\n\n"
        if took := costs.table(one.groups):
            pairs += f"{COSTS}:\n\n{table(costs.cells(took))}\n\n"
        parts.append(f"{title}{table(_cells(one.groups, '±'))}\n\n{pairs}{picture}")
    made = [g for one in sections for g in one.groups]
    return (
        f"# {task}: runs compared\n\n{f'{APART}{chr(10)}{chr(10)}' if several else ''}{''.join(parts)}{CAPTION}\n\n"
        f"Mean and standard deviation over seeds, on the test prompts pooled; a run without a deviation has one seed. "
        f"`delta` is the policy's reward less the reference's; `validation` the reward of the checkpoint's answers to "
        f"the validation prompts, by the rewards of training; `ope` what logged test responses alone say of a policy, "
        f"by importance sampling (snis) and doubly robust (dr), and how many of them count (ess); `selected` the share "
        f"of seeds in which a checkpoint beat the reference on validation.\n\n"
        f"{counts(left_out)}\n\n{_provenance(made)}"
    )


def counts(left_out: Sequence[LeftOut]) -> str:
    """What is in no table, in one line."""
    if not left_out:
        return "Nothing is left out."
    kinds = Counter(one.kind for one in left_out)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
    return f"Left out: {len(left_out)} commits, experiments or files ({listed})."


def _provenance(groups: Sequence[Group]) -> str:
    """Which commit made each run, when, in what time and memory: a table, or nothing where no run says."""
    rows = [
        [g.label, run.seed, run.name, run.made, run.date, *_spent(run)] for g in groups for run in g.runs if run.made
    ]
    header = ["run", "seed", "name", "made by", "date", "hours of its stages", "peak memory, MB"]
    return f"What made each run:\n\n{table([header, *rows])}\n" if rows else ""


def _spent(run: Run) -> tuple[str, str]:
    """Time of the stages that ran for it, and the most memory of one; empty where it was not kept."""
    if not run.cost:
        return "", ""
    seconds = sum(one.get("seconds", 0.0) for one in run.cost.values())
    memory = max(one.get("peak_memory_mb", 0.0) for one in run.cost.values())
    return f"{seconds / 3600:.2f}", f"{memory:,.0f}"


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
            cells.append(cell(row[name], std, plus))
        lines.append(cells)
    return lines


def table(cells: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is flush left."""
    header, *lines = cells
    ruled = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in ruled)
