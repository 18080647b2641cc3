"""How well what was known without the test answers foretold a run's test reward: over many runs, for each estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alol.base.text import show
from alol.evaluation.experiments import FIRST, POLICY, Run
from alol.evaluation.ope import DOUBLY_ROBUST, SAMPLED
from alol.evaluation.summary import OPE

FEWEST = 3  # runs of which ranks say anything
ESTIMATES = {  # the name of each -> its key in a summary
    "validation reward": "validation.policy.reward",
    "doubly robust": f"{POLICY}{OPE}.{DOUBLY_ROBUST}",
    "importance sampling": f"{POLICY}{OPE}.{SAMPLED}",
}


@dataclass(frozen=True)
class Foretold:
    """Of one estimate over the `runs` that have it: `rank` is Spearman's correlation with the test reward.

    `bias` is the mean of estimate less reward, `error` the mean of its size; None where the test split has rewards of
    its own, since the estimates are by those of training.
    """

    estimate: str
    runs: int
    rank: float
    bias: float | None
    error: float | None


def table(runs: Sequence[Run]) -> list[Foretold]:
    """The estimates that enough of the runs have and that vary; the runs are of one reference and test set."""
    from scipy.stats import spearmanr

    found = []
    same = all(
        run.settings.get(f"test_{key}") == one
        for run in runs
        for key, one in run.settings.items()
        if key.startswith("rewards.")
    )
    for name, key in ESTIMATES.items():
        pairs = [(run.metrics[key], run.metrics[FIRST[0]]) for run in runs if key in run.metrics]
        said, reached = np.array(pairs, np.float64).reshape(-1, 2).T
        if len(pairs) >= FEWEST and np.ptp(said) > 0 < np.ptp(reached):
            apart, rank = said - reached, float(spearmanr(said, reached).statistic)
            sizes = (float(apart.mean()), float(np.abs(apart).mean())) if same else (None, None)
            found.append(Foretold(name, len(pairs), rank, *sizes))
    return found


def cells(found: Sequence[Foretold]) -> list[list[str]]:
    """Header and lines as text."""
    lines = [[one.estimate, str(one.runs), *map(show, (one.rank, one.bias, one.error))] for one in found]
    return [["estimate", "runs", "rank correlation", "bias", "mean error"], *lines]
