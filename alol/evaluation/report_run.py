"""What a report is made of, and its plots as tables of numbers, which `dvc plots` draws too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alol.config.params import Params
from alol.evaluation import figures
from alol.evaluation.metrics import Array
from alol.evaluation.summary import MODELS, Heldout, History, Measured, Rows, number
from alol.evaluation.training_rows import Training

PLOT_COLUMNS = {
    "reward_distribution.csv": ("bin", *MODELS),
    "advantage.csv": ("bin", "kept", "count"),
    "training.csv": ("update", "loss"),
    "validation.csv": ("update", "reward"),
    "value.csv": ("value", "reward"),
}


@dataclass(frozen=True)
class Run:
    """What a report is made of: test rows by model, training.json (`history`), the value function's `heldout` rows."""

    params: Params
    summary: dict[str, Any]
    rows: dict[str, Rows]
    measured: dict[str, Measured]
    training: Training
    history: History
    heldout: Heldout
    reward_model: Mapping[str, Mapping[str, float]]  # what its training measured, by component
    sizes: Mapping[str, tuple[int, int]]  # split -> prompts and logged responses
    settings: Sequence[tuple[str, str]]  # dotted key and value, where the task differs from what tasks share


def histograms(run: Run) -> tuple[tuple[Array, dict[str, Array]], tuple[Array, Array, Array]]:
    """(bin edges, share of prompts by model) of the test rewards; (edges, counts above 0 and not) of advantages."""
    rewards = {name: run.measured[name].columns["reward"] for name in MODELS}
    bins = figures.edges(np.concatenate(list(rewards.values())))
    shares = {name: np.histogram(values, bins)[0] / len(values) for name, values in rewards.items()}
    advantage = run.training.columns["advantage"]
    ends = figures.edges(advantage, at=0.0)
    above, below = (np.histogram(part, ends)[0] for part in (advantage[advantage > 0], advantage[advantage <= 0]))
    return (bins, shares), (ends, above, below)


def points(run: Run) -> tuple[Array, Array]:
    """Held-out predictions and rewards, at most `points` of them, drawn with the section's seed."""
    value, reward = (np.array(run.heldout[name], dtype=np.float64) for name in ("value", "reward"))
    options = run.params.aggregate
    if len(value) > options.points:
        index = np.sort(np.random.default_rng(options.seed).permutation(len(value))[: options.points])
        value, reward = value[index], reward[index]
    return value, reward


def plot_tables(run: Run) -> dict[str, Rows]:
    """File name -> rows, for `dvc plots`. A bin is named by its centre."""
    (bins, shares), (ends, above, below) = histograms(run)
    counts = (("true", above), ("false", below))
    return {
        "reward_distribution.csv": [
            {"bin": number(centre)} | {model: number(shares[model][i]) for model in MODELS}
            for i, centre in enumerate((bins[1:] + bins[:-1]) / 2)
        ],
        "advantage.csv": [
            {"bin": number(centre), "kept": name, "count": int(count)}
            for name, part in counts
            for centre, count in zip((ends[1:] + ends[:-1]) / 2, part, strict=True)
        ],
        "training.csv": run.history["curve"],
        "validation.csv": run.history["validation"],
        "value.csv": [{"value": number(v), "reward": number(r)} for v, r in zip(*points(run), strict=True)],
    }
