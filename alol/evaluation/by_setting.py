"""How runs depend on one setting: the gain of each algorithm over its reference at each value, over seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from alol.base import errors
from alol.base.text import show
from alol.evaluation import experiments
from alol.evaluation.comparison import spread
from alol.evaluation.experiments import Run

UNSET, REFERENCE = "null", "reference"
Gains = dict[str, dict[str, list[float]]]  # line -> value of the setting -> the gain of each seed


def only(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    """The runs that meet all conditions KEY=VALUE; a KEY is a setting's or its end, or `reference` (how its digest
    begins), VALUE `null` where it is not set. InputError where a condition is none, or no run meets all."""
    chosen = list(runs)
    for condition in conditions:
        name, equals, wanted = condition.partition("=")
        if not equals:
            raise errors.InputError(f"--only {condition}: write KEY=VALUE")
        if name == REFERENCE:
            chosen = [run for run in chosen if (run.basis.reference or "").startswith(wanted)]
            continue
        setting = key(runs, name, "--only")
        chosen = [run for run in chosen if run.settings.get(setting, UNSET) == wanted]
    if conditions and not chosen:
        raise errors.InputError(f"no run meets {' and '.join(conditions)}")
    return chosen


def key(runs: Sequence[Run], name: str, option: str = "--by") -> str:
    """The dotted key of the setting that `name` is, or is the end of; InputError where none is, or several are."""
    known = sorted({key for run in runs for key in run.settings})
    found = [name] if name in known else [key for key in known if key.endswith(f".{name}")]
    if len(found) > 1:
        raise errors.InputError(f"{option} {name} may be {', '.join(found)}; name one of them")
    if not found:
        raise errors.InputError(
            f"{option} {name}: none of these runs has set such a parameter; take the end of its key"
        )
    return found[0]


def gains(runs: Sequence[Run], setting: str, metric: str) -> Gains:
    """Of `metric` over the reference; lines are runs that differ in the setting (a dotted key) and in seeds alone.

    Lines with one value say nothing of the setting and are left out. InputError where no line is left.
    """
    # of the same run under two references, that of the reference which more runs have
    every = [run for own in experiments.by_basis(runs).values() for run in own]
    runs = list({(one.algorithm, one.seed, *one.settings.items()): one for one in reversed(every)}.values())
    value = {id(run): run.settings.get(setting, UNSET) for run in runs}

    def grouped(chosen: Sequence[Run]) -> dict[str, list[Run]]:
        without = {f"{i} {run.name}": run for i, run in enumerate(chosen)}
        bare = [
            dataclasses.replace(run, name=name, settings={k: v for k, v in run.settings.items() if k != setting})
            for name, run in without.items()
        ]
        return {group.label: [without[run.name] for run in group.runs] for group in experiments.group(bare)}

    several = [own for own in grouped(runs).values() if len({value[id(run)] for run in own}) > 1]
    if not several:
        raise errors.InputError(f"no two of these runs differ in {setting} and otherwise in their seeds alone")
    found: Gains = {}
    for label, own in grouped([run for group in several for run in group]).items():
        for run in own:
            ends = [run.summary.get(f"{model}.all.{metric}") for model in ("policy", "reference")]
            if None in ends:
                raise errors.InputError(
                    f"{run.name} has no '{metric}' of both policy and reference, such as reward, length or distinct_3; "
                    "correct --metric"
                )
            found.setdefault(label, {}).setdefault(value[id(run)], []).append(ends[0] - ends[1])
    return found


def values(found: Gains) -> list[str]:
    """Those of the setting, as an axis has them: what is not set, numbers by size, words by the alphabet."""
    return sorted({value for line in found.values() for value in line}, key=_order)


def _order(value: str) -> tuple[int, float, str]:
    try:
        return (1, float(value), "")
    except ValueError:
        return (0 if value == UNSET else 2, 0.0, value)


def cells(found: Gains, plus: str) -> list[list[str]]:
    """Header and lines as text: the mean, and the deviation over seeds after `plus`; empty where nothing ran."""
    columns = values(found)
    return [
        ["run", *columns],
        *([label, *(_cell(line, one, plus) for one in columns)] for label, line in found.items()),
    ]


def _cell(line: Mapping[str, Sequence[float]], value: str, plus: str) -> str:
    mean, std = spread(line.get(value, []))
    return show(mean) + (f" {plus} {show(std)}" if std is not None else "")
