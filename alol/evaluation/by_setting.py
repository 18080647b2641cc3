"""How runs depend on one setting: the gain of each algorithm over its reference at each value, over seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from alol.base import errors
from alol.evaluation import experiments
from alol.evaluation.chosen import NULL
from alol.evaluation.comparison import cell, spread
from alol.evaluation.experiments import Run

Gains = dict[str, dict[str, list[float]]]  # line -> value of the setting -> the gain of each seed


def gains(runs: Sequence[Run], setting: str, metric: str) -> Gains:
    """Of `metric` over the reference; lines are runs that differ in the setting (a dotted key) and in seeds alone.

    Lines with one value say nothing of the setting and are left out. InputError where no line is left.
    """
    # of the same run under two references, that of the reference which more runs have
    every = [run for own in experiments.by_basis(runs).values() for run in own]
    runs = list({(one.algorithm, one.seed, *one.settings.items()): one for one in reversed(every)}.values())
    value = {id(run): run.settings.get(setting, NULL) for run in runs}

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
        return (0 if value == NULL else 2, 0.0, value)


def cells(found: Gains, plus: str) -> list[list[str]]:
    """Header and lines as text: the mean, and the deviation over seeds after `plus`; empty where nothing ran."""
    columns = values(found)
    return [
        ["run", *columns],
        *([label, *(cell(*spread(line.get(one, [])), plus) for one in columns)] for label, line in found.items()),
    ]
