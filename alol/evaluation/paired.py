"""Groups of runs compared prompt by prompt: with the reference, and with another group.

Runs of one reference and test set answer the same prompts, so that a difference is that of each prompt's rewards: what
makes a prompt easy or hard drops out. Of several seeds a prompt's reward is their mean.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from alol.base.errors import InputError
from alol.base.text import show_p
from alol.config import paths
from alol.config.params import Params
from alol.config.sections import Aggregate
from alol.data import schema
from alol.evaluation import metrics
from alol.evaluation.metrics import Array
from alol.evaluation.summary import check_aligned, conversations, number

LEVEL = 0.05


class Prompts(TypedDict):
    """Of each test prompt: the total rewards of the policy's and the reference's answers, and its conversation."""

    policy: list[float]
    reference: list[float]
    conversation: list[int]


@dataclass(frozen=True)
class Difference:
    """The mean over prompts, its 95 % bootstrap interval, and the p-value of random signs."""

    mean: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}], {show_p(self.p_value)}"


def prompts(folder: Path, p: Params) -> Prompts:
    """Of the run that ended in `folder`."""
    columns = schema.scored(schema.ROLLOUTS, p.rewards)
    policy = schema.rows(folder / paths.generations(p.task, p.algorithm) / "test.parquet", columns)
    reference = schema.rows(folder / paths.baselines(p.task) / "test.parquet", columns)
    check_aligned({"the reference's answers": reference, "the policy's": policy})
    groups = conversations([row["context"].get("group") for row in reference]).tolist()
    return Prompts(policy=_rewards(policy, p), reference=_rewards(reference, p), conversation=groups)


def _rewards(rows: list[dict[str, Any]], p: Params) -> list[float]:
    return [number(schema.total_reward(row, p.reward.weights, p.reward.shift)) for row in rows]


def over_reference(runs: Sequence[Prompts], options: Aggregate) -> Difference:
    """Of the policy from the reference; `runs` differ in their seed alone."""
    return _difference(_mean(runs) - np.array(runs[0]["reference"]), runs[0]["conversation"], options)


def over(runs: Sequence[Prompts], others: Sequence[Prompts], options: Aggregate) -> Difference:
    """Of the policy of `runs` from that of `others`, which answer the same prompts."""
    return _difference(_mean(runs) - _mean(others), runs[0]["conversation"], options)


def _mean(runs: Sequence[Prompts]) -> Array:
    return np.mean([run["policy"] for run in runs], axis=0)


def _difference(values: Array, members: Sequence[int], options: Aggregate) -> Difference:
    within = [np.array(members)]
    low, high = metrics.bootstrap_interval([values], options.bootstrap, options.seed, within)
    p_value = metrics.sign_flip_p([values], options.permutations, options.seed, within)
    return Difference(float(values.mean()), low, high, p_value)


@dataclass(frozen=True)
class Compared:
    """Two groups of runs: the `difference` of the first from the second, and its p-value corrected for all pairs."""

    first: str
    second: str
    difference: Difference
    corrected: float

    @property
    def shown(self) -> bool:
        """Whether one is better than the other at a level of 5 % over all pairs together."""
        return self.corrected < LEVEL


def every_pair(groups: Sequence[tuple[str, Sequence[Prompts]]], options: Aggregate) -> list[Compared]:
    """Each two of the groups (label, runs), which are of one reference and test set, in their order."""
    pairs = list(itertools.combinations(groups, 2))
    found = [over(runs, others, options) for (_, runs), (_, others) in pairs]
    corrected = holm([one.p_value for one in found])
    return [
        Compared(first, second, one, p)
        for ((first, _), (second, _)), one, p in zip(pairs, found, corrected, strict=True)
    ]


def holm(values: Sequence[float]) -> list[float]:
    """p-values so that the chance of any false one below a level is at most that level (Holm, 1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on; none is below one before it, or above 1. It
    holds however the tests depend on each other.
    """
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    corrected = np.minimum(1.0, np.maximum.accumulate(np.asarray(values)[order] * factors))
    result = np.empty(len(values))
    result[order] = corrected
    return result.tolist()


def tally(compared: Sequence[Compared]) -> list[list[str]]:
    """Header and a line for each group, the best first: how many others it is better and worse than."""
    better: Counter[str] = Counter()
    worse: Counter[str] = Counter()
    labels = list(dict.fromkeys(label for one in compared for label in (one.first, one.second)))
    for one in compared:
        if one.shown:
            up, down = (one.first, one.second) if one.difference.mean > 0 else (one.second, one.first)
            better[up] += 1
            worse[down] += 1
    ranked = sorted(labels, key=lambda label: (worse[label] - better[label], labels.index(label)))
    rest = len(labels) - 1
    lines = [[one, *map(str, (better[one], worse[one], rest - better[one] - worse[one]))] for one in ranked]
    return [["run", "better than", "worse than", "not shown"], *lines]


def matrix(compared: Sequence[Compared]) -> tuple[list[str], Array, np.ndarray]:
    """Labels, the best first; the differences of each from each [N, N]; and whether they are shown [N, N]."""
    labels = [line[0] for line in tally(compared)[1:]]
    differences, shown = np.zeros((len(labels), len(labels))), np.zeros((len(labels), len(labels)), dtype=bool)
    for one in compared:
        i, j = labels.index(one.first), labels.index(one.second)
        differences[i, j], differences[j, i] = one.difference.mean, -one.difference.mean
        shown[i, j] = shown[j, i] = one.shown
    return labels, differences, shown


def lines(
    groups: Sequence[tuple[str, Sequence[Prompts]]], against: Sequence[str], options: Aggregate
) -> list[list[str]]:
    """Header and a line for each group (label, runs): its difference from the reference and from each of `against`.

    `groups` are of one reference and test set, and among them those that `against` names; [] for none.
    """
    if not groups:
        return []
    named = dict(groups)
    table = [["run", "seeds", "over the reference", *(f"over {label}" for label in against)]]
    for label, runs in groups:
        cells = ["" if label == other else str(over(runs, named[other], options)) for other in against]
        table.append([label, str(len(runs)), str(over_reference(runs, options)), *cells])
    return table


def checked(found: Prompts) -> Prompts:
    """`found`; InputError where its lists are not of one length."""
    if len({len(found["policy"]), len(found["reference"]), len(found["conversation"])}) != 1 or not found["policy"]:
        raise InputError("its rewards by prompt are not of one length")
    return found
