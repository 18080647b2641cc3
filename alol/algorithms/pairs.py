"""Losses over the ranked responses to one prompt: DPO, its reference-free form, IPO, SimPO, ORPO and PRO.

Shapes: `logp` and `ref_logp` [B, K, T] are log-probabilities (<= 0) of the response tokens, `mask` [B, K, T] is 1 on
response tokens (end of text included) and 0 on padding; a response that a prompt lacks has no 1 in its mask.
`raw_reward` is [B, K]. Every loss returns [B]; the trainer takes the mean.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from alol.algorithms.offline import Algorithm, total
from alol.config.ranges import NotNegative, Positive

if TYPE_CHECKING:  # as in offline
    from torch import Tensor


def dpo(*, logp: Tensor, mask: Tensor, ref_logp: Tensor, beta: Positive) -> Tensor:
    """Direct preference optimisation (arXiv 2305.18290, equation 7): the first response against each of the others.

    -ln sigmoid(beta [(ln pi(y_0) - ln pi(y_k)) - (ln pi_ref(y_0) - ln pi_ref(y_k))]), the mean over k that there are.
    """
    from torch.nn.functional import logsigmoid

    score = beta * total(logp - ref_logp, mask)  # [B, K]
    return _mean_of_others(-logsigmoid(score[:, :1] - score[:, 1:]), mask)


def dpo_ref_free(*, logp: Tensor, mask: Tensor, beta: Positive) -> Tensor:
    """DPO against a uniform reference: the log-ratios are plain log-probabilities."""
    return dpo(logp=logp, mask=mask, ref_logp=logp.new_zeros(logp.shape), beta=beta)


def ipo(*, logp: Tensor, mask: Tensor, ref_logp: Tensor, beta: Positive) -> Tensor:
    """Identity preference optimisation (arXiv 2310.12036, equation 17), on mean token log-ratios, as TRL has it.

    (l_0 - l_k - 1 / (2 beta))^2, where l is the mean over a response's tokens of ln pi - ln pi_ref; the mean over k.
    """
    score = _mean(logp - ref_logp, mask)
    return _mean_of_others((score[:, :1] - score[:, 1:] - 1 / (2 * beta)).square(), mask)


def simpo(*, logp: Tensor, mask: Tensor, beta: Positive, gamma: NotNegative) -> Tensor:
    """SimPO (arXiv 2405.14734, equation 6): DPO on mean token log-probabilities, without a reference, with a margin.

    -ln sigmoid(beta (m_0 - m_k) - gamma), m the mean over a response's tokens of ln pi; the mean over k.
    """
    from torch.nn.functional import logsigmoid

    score = beta * _mean(logp, mask)
    return _mean_of_others(-logsigmoid(score[:, :1] - score[:, 1:] - gamma), mask)


def orpo(*, logp: Tensor, mask: Tensor, odds_weight: NotNegative) -> Tensor:
    """ORPO (arXiv 2403.07691, equations 6 and 7): the preferred response's nll, and the odds between it and the others.

    -m_0 - odds_weight ln sigmoid(o_0 - o_k), o = m - ln(1 - e^m), m the mean over a response's tokens of ln pi.
    """
    import torch
    from torch.nn.functional import logsigmoid

    mean = _mean(logp, mask)
    sure = mean.clamp(max=-1e-6)  # a log-softmax in fp32 may be 0, where the odds are infinite
    odds = sure - torch.log(-torch.expm1(sure))
    return -mean[:, 0] - odds_weight * _mean_of_others(logsigmoid(odds[:, :1] - odds[:, 1:]), mask)


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean over a response's tokens [B, K]; 0 of one that is not there."""
    return total(x, mask) / mask.sum(-1).clamp(min=1)


def _mean_of_others(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` [B, K - 1] over the responses after the first that are there [B]."""
    there = mask.any(-1)[:, 1:]
    return (values * there).sum(-1) / there.sum(-1)


def pro(*, logp: Tensor, mask: Tensor, raw_reward: Tensor, sft_weight: NotNegative) -> Tensor:
    """Preference ranking optimisation (arXiv 2306.17492), the responses ranked by reward.

    With s_k the mean token log-probability of the k-th best response, T_kj = r_k - r_j and T_kk = max_j T_kj over
    j > k: sum_k [ln sum_{j >= k} exp(T_kj s_j) - T_kk s_k] - sft_weight (K - 1)^2 ln pi(best).

    The published code adds 1e-10 inside of the logarithm, against an overflow to minus infinity that logsumexp does not
    have; the two differ by ln(1 + 1e-10 / sum), less than 1e-5 unless every exponent is below -11.
    """
    import torch

    there = mask.any(-1)
    order = raw_reward.masked_fill(~there, -math.inf).argsort(dim=-1, descending=True, stable=True)
    there, reward, sums = (x.gather(-1, order) for x in (there, raw_reward, total(logp, mask)))
    score = sums / mask.sum(-1).gather(-1, order).clamp(min=1)  # [B, K]
    ranking = torch.zeros_like(score[:, 0])
    for k in range(score.shape[1] - 1):
        rest = there[:, k + 1 :]
        gap = (reward[:, k : k + 1] - reward[:, k + 1 :]) * rest  # >= 0
        best = gap.amax(-1) * score[:, k]
        others = (gap * score[:, k + 1 :]).masked_fill(~rest, -math.inf)
        terms = torch.cat([best.unsqueeze(-1), others], dim=-1)
        ranking = ranking + (terms.logsumexp(-1) - best) * rest.any(-1)
    return ranking - sft_weight * (there.sum(-1) - 1) ** 2 * sums[:, 0]


PAIRS = {
    "dpo": Algorithm(dpo, ("ref_logp",), None, group=True),
    "dpo_ref_free": Algorithm(dpo_ref_free, (), None, group=True),
    "ipo": Algorithm(ipo, ("ref_logp",), None, group=True),
    "simpo": Algorithm(simpo, (), None, group=True),
    "orpo": Algorithm(orpo, (), None, group=True),
    "pro": Algorithm(pro, ("raw_reward",), None, group=True),
}
