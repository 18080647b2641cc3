"""What runs took, beside what they gained: seconds of the stages that a choice of the algorithm changes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from alol.base.text import show
from alol.evaluation.experiments import FIRST, Group, Run

SHARED = ("rollout", "advantage")  # once for all runs whose settings before training are the same
OWN = ("train", "evaluate")  # of each run
OF_TRAINING = ("train.", "algorithms.")  # settings that no stage before it reads


def table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row for each group: its gain over the reference and the mean seconds of each stage over the runs that ran it.

    What a run took from the cache has the seconds of the run that made it. None: no run here did. [] where no run says.
    """
    made: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in (run for group in groups for run in group.runs):
        made.setdefault(_before_training(run), []).append(run)
    rows = []
    for group in groups:
        alike = [run for key in {_before_training(run) for run in group.runs} for run in made[key]]
        seconds = {stage: _mean(alike, stage) for stage in SHARED} | {stage: _mean(group.runs, stage) for stage in OWN}
        gains = group.values(FIRST[2])
        rows.append({"run": group.label, "gain": statistics.fmean(gains) if gains else None, **seconds})
    return rows if any(row[stage] is not None for row in rows for stage in (*SHARED, *OWN)) else []


def cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Header and lines as text; seconds without decimals."""
    header = ["run", "gain", *(f"{stage}, s" for stage in (*SHARED, *OWN))]
    lines = [
        [row["run"], show(row["gain"]), *("" if row[one] is None else f"{row[one]:,.0f}" for one in (*SHARED, *OWN))]
        for row in rows
    ]
    return [header, *lines]


def _before_training(run: Run) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in sorted(run.settings.items()) if not key.startswith(OF_TRAINING))


def _mean(runs: Sequence[Run], stage: str) -> float | None:
    found = [run.cost[stage]["seconds"] for run in runs if "seconds" in run.cost.get(stage, {})]
    return statistics.fmean(found) if found else None
