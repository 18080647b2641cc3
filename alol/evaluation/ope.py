"""Off-policy evaluation: what a policy would be worth, from logged responses alone, without letting it answer.

The logs' writer is not known, so that the reference stands in for it. Where the reference is another policy than the
writer, the estimates are biased: they say what the policy makes more likely than the reference, among what was logged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alol.evaluation.metrics import Array
from alol.evaluation.summary import ALL, number

SAMPLED, DOUBLY_ROBUST = "snis", "dr"  # keys of the two estimates
DETAILS = ("baseline", "clipped", "log_ratio_per_token", "responses")  # keys that tables over runs leave out
LIMIT = 20.0  # of a weight pi / pi_ref
ENOUGH = 30.0  # effective sample size below which no estimate is given


def estimates(log_ratio: Array, reward: Array, value: Array, tokens: Array) -> dict[str, float]:
    """Estimates from logged responses, all [N]: summed log-ratios, rewards R, values V(x) of the prompts, lengths.

    With the weights w = min(pi / pi_ref, 20): `snis` is sum w R / sum w (self-normalised importance sampling), `dr`
    mean V + sum w (R - V) / sum w (doubly robust), `baseline` mean V, the reference's own value. `ess` is the effective
    sample size (sum w)^2 / sum w^2 (Kish, 1965); below ENOUGH there is neither `snis` nor `dr`. `clipped` is the share
    of weights that met the limit, `log_ratio_per_token` how far the policy has moved on what was logged.
    """
    log_weight = np.minimum(log_ratio, np.log(LIMIT))
    weight = np.exp(log_weight - log_weight.max())  # a common factor cancels
    size = float(weight.sum() ** 2 / (weight**2).sum())
    found = {
        "baseline": float(value.mean()),
        "ess": size,
        "clipped": float((log_ratio >= np.log(LIMIT)).mean()),
        "log_ratio_per_token": float(log_ratio.sum() / max(1.0, tokens.sum())),
        "responses": float(len(reward)),
    }
    if size >= ENOUGH:
        found[SAMPLED] = float(np.average(reward, weights=weight))
        found[DOUBLY_ROBUST] = found["baseline"] + float(np.average(reward - value, weights=weight))
    return found


def by_split(
    subsets: Sequence[str],
    log_ratio: Sequence[float],
    reward: Sequence[float],
    value: Sequence[float],
    tokens: Sequence[int],
) -> dict[str, dict[str, float]]:
    """`estimates` of all responses and, where there are several, of each test subset."""
    columns = [np.asarray(column, np.float64) for column in (log_ratio, reward, value, tokens)]
    names = np.array(subsets)
    splits = {ALL: np.full(len(names), True)}
    if len({*subsets}) > 1:
        splits |= {name: names == name for name in sorted({*subsets})}
    return {
        split: {key: number(one) for key, one in estimates(*(column[rows] for column in columns)).items()}
        for split, rows in splits.items()
    }
