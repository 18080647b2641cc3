"""What rivals of A-LoL learn from single responses: pure functions of tensors, as in alol.algorithms.offline.

Shapes are those of `offline`; `ref_rewards` [B, k] are the rewards of k answers that the reference sampled to the
example's prompt. The log-ratio of a response, ln pi(y|x) - ln pi_ref(y|x), is summed over its tokens. Every loss
returns [B]. Weights are detached; the losses that are squares or sigmoids of the log-ratio are not of the form weight x
-log pi(y|x), and learn from responses below V(x) too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from alol.algorithms.offline import Algorithm, nll, r_lol, total
from alol.config.ranges import NotNegative, Positive

if TYPE_CHECKING:  # as in offline
    from torch import Tensor


def awr(*, logp: Tensor, mask: Tensor, advantage: Tensor, beta: Positive, weight_limit: Positive) -> Tensor:
    """Advantage-weighted regression (arXiv 1910.00177): -min(exp(A / beta), weight_limit) ln pi(y|x)."""
    weight = (advantage / beta).clamp(max=math.log(weight_limit)).exp()
    return -weight * total(logp, mask)


def a_lol_signed(
    *,
    logp: Tensor,
    mask: Tensor,
    ref_logp: Tensor,
    advantage: Tensor,
    negative: NotNegative,
    clip: NotNegative | None,
) -> Tensor:
    """A-LoL that also pushes down what is worse than V(x), damped: where A < 0 its weight is `negative` x A.

    Without a lower bound there: the log-probability of a response that is pushed down may fall for ever.
    """
    weight = advantage.clamp(min=0) + negative * advantage.clamp(max=0)
    return r_lol(logp=logp, mask=mask, ref_logp=ref_logp, reward=weight, clip=clip)


def dro(*, logp: Tensor, mask: Tensor, ref_logp: Tensor, advantage: Tensor, beta: NotNegative) -> Tensor:
    """Direct reward optimisation (arXiv 2405.19107) with the value known: 1/2 (A - beta ln pi/pi_ref)^2.

    V(x) here is the mean reward of the reference; the paper's is beta ln E exp(R / beta), which is larger.
    """
    return (advantage - beta * total(logp - ref_logp, mask)).square() / 2


def kto_zero(
    *,
    logp: Tensor,
    mask: Tensor,
    ref_logp: Tensor,
    advantage: Tensor,
    beta: Positive,
    desirable: NotNegative,
    undesirable: NotNegative,
) -> Tensor:
    """KTO (arXiv 2402.01306) with its reference point at 0, as APO-zero has it (arXiv 2408.06266).

    1 - sigmoid(beta ln pi/pi_ref) for responses with A > 0, sigmoid(beta ln pi/pi_ref) for others, each side weighed.
    """
    import torch

    score = beta * total(logp - ref_logp, mask)
    return torch.where(advantage > 0, desirable * torch.sigmoid(-score), undesirable * torch.sigmoid(score))


def a_star(
    *,
    logp: Tensor,
    mask: Tensor,
    ref_logp: Tensor,
    reward: Tensor,
    ref_rewards: Tensor,
    value_beta: Positive,
    beta: NotNegative,
) -> Tensor:
    """A*-PO (arXiv 2505.20686): `dro` with the optimal value, estimated by the reference's own answers to the prompt.

    1/2 (R - V* - beta ln pi/pi_ref)^2, V* = value_beta ln mean_i exp(R_i / value_beta).
    """
    best = value_beta * ((ref_rewards / value_beta).logsumexp(-1) - math.log(ref_rewards.shape[-1]))
    return (reward - best - beta * total(logp - ref_logp, mask)).square() / 2


def qrpo(
    *,
    logp: Tensor,
    mask: Tensor,
    ref_logp: Tensor,
    reward: Tensor,
    ref_rewards: Tensor,
    beta: Positive,
    per_token: bool,
) -> Tensor:
    """Quantile reward policy optimisation (arXiv 2507.08068): (q - b ln Z - b ln pi/pi_ref)^2.

    q is the share of the reference's answers whose reward is not above R, which is uniform under the reference, so that
    Z = b (e^(1/b) - 1) is known. `per_token`: b is beta over the response's length, at most 0.1; else beta.
    """
    import torch

    quantile = (ref_rewards <= reward[:, None]).float().mean(-1)
    scale = (beta / mask.sum(-1)).clamp(max=0.1) if per_token else torch.full_like(reward, beta)
    small = scale * scale.log() + 1  # b ln b + 1, from which b ln Z differs by b e^(-1/b): below 0.2, by 0.0014
    partition = torch.where(scale <= 0.2, small, scale * (scale * torch.expm1(1 / scale.clamp(min=0.2))).log())
    return (quantile - partition - scale * total(logp - ref_logp, mask)).square()


RIVALS = {
    "rft": Algorithm(nll, (), None, filter="positive"),
    "awr": Algorithm(awr, ("advantage",), None),
    "a_lol_signed": Algorithm(a_lol_signed, ("ref_logp", "advantage"), "abs_advantage"),
    "dro": Algorithm(dro, ("ref_logp", "advantage"), None),
    "kto_zero": Algorithm(kto_zero, ("ref_logp", "advantage"), None),
    "a_star": Algorithm(a_star, ("ref_logp", "reward", "ref_rewards"), None, signed=True),
    "qrpo": Algorithm(qrpo, ("ref_logp", "reward", "ref_rewards"), None, signed=True),
}
