"""The eight offline algorithms: pure functions of tensors, side by side.

Shapes: `logp` and `ref_logp` [B, T] are log-probabilities (<= 0) of the response tokens under the policy and the
reference policy, `mask` [B, T] is 1 on response tokens (end of text included) and 0 on padding, `reward` and
`advantage` are [B]. Every loss returns [B]; the trainer takes the mean. Sums run over tokens, never means. Weights are
detached and advantages clamped at 0 inside, so that a caller cannot forget it: the gradient is weight x grad of
-log pi(y|x), except for the KL variant. Source: arXiv 2305.14718; ratios are clipped to [1 - clip, 1 + clip].
Arguments that are no tensors are the hyperparameters; their types carry the ranges that params.yaml must keep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from alol.config.ranges import NotNegative, Share

if TYPE_CHECKING:  # stages.check reads the losses' arguments, and starts without torch
    from torch import Tensor

LOG_RATIO_LIMIT = 20.0  # keeps exp() of a summed log-ratio finite when no clip does


def total(x: Tensor, mask: Tensor) -> Tensor:
    """Sum over the response tokens, in fp32: [B, T] -> [B]."""
    return (x.float() * mask).sum(-1)


def importance(log_ratio: Tensor, clip: float | None) -> Tensor:
    """SG[clip(pi / pi_ref)], from the log-ratio; any shape. `clip=None`: not clipped."""
    ratio = log_ratio.detach().float().clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    return ratio if clip is None else ratio.clamp(1 - clip, 1 + clip)


def nll(*, logp: Tensor, mask: Tensor) -> Tensor:
    """-ln pi(y|x)."""
    return -total(logp, mask)


def wbc(*, logp: Tensor, mask: Tensor, reward: Tensor) -> Tensor:
    """Weighted behaviour cloning: -R ln pi(y|x)."""
    return -reward * total(logp, mask)


def r_gold(*, logp: Tensor, mask: Tensor, reward: Tensor, floor: Share) -> Tensor:
    """Reward GOLD: -R sum_t SG[max(pi(y_t), floor)] ln pi(y_t)."""
    weight = logp.detach().exp().clamp(min=floor)
    return -reward * total(weight * logp, mask)


def r_lol(*, logp: Tensor, mask: Tensor, ref_logp: Tensor, reward: Tensor, clip: NotNegative | None) -> Tensor:
    """R-LoL: -R SG[clip(pi/pi_ref)] ln pi(y|x), the ablation of the value baseline."""
    return -reward * importance(total(logp - ref_logp, mask), clip) * total(logp, mask)


def a_lol(*, logp: Tensor, mask: Tensor, ref_logp: Tensor, advantage: Tensor, clip: NotNegative | None) -> Tensor:
    """A-LoL: -A+ SG[clip(pi/pi_ref)] ln pi(y|x)."""
    return r_lol(logp=logp, mask=mask, ref_logp=ref_logp, reward=advantage.clamp(min=0), clip=clip)


def a_lol_ref_free(*, logp: Tensor, mask: Tensor, advantage: Tensor) -> Tensor:
    """A-LoL with the importance weight set to 1: -A+ ln pi(y|x)."""
    return wbc(logp=logp, mask=mask, reward=advantage.clamp(min=0))


def a_lol_seq(*, logp: Tensor, mask: Tensor, ref_logp: Tensor, advantage: Tensor, clip: NotNegative | None) -> Tensor:
    """A-LoL sequence: -A+ sum_t SG[clip(pi(y_t)/pi_ref(y_t))] ln pi(y_t)."""
    return -advantage.clamp(min=0) * total(importance(logp - ref_logp, clip) * logp, mask)


def a_lol_kl(*, logp: Tensor, mask: Tensor, ref_logp: Tensor, advantage: Tensor, kl_beta: NotNegative) -> Tensor:
    """A-LoL KL: -A+ ln pi(y|x) + kl_beta (ln pi(y|x) - ln pi_ref(y|x)), the one-sample log-ratio on the data.

    The gradient is (A+ - kl_beta) x grad of -ln pi: examples with A+ < kl_beta are pushed down, without a lower bound.
    """
    return a_lol_ref_free(logp=logp, mask=mask, advantage=advantage) + kl_beta * total(logp - ref_logp, mask)


@dataclass(frozen=True)
class Algorithm:
    """A loss, the columns it reads beside `logp` and `mask`, and what it is trained on unless `train` says otherwise.

    `priority`: the column in proportion to which examples are drawn (`abs_advantage`: |A|); None: all alike. `filter`:
    whether those without a positive advantage are left out. `group`: an example is a prompt with all its responses, by
    rank, instead of a response. `signed`: whether a loss of the reward takes one below 0. `alol.algorithms.selection`
    sets `train.filter` and `train.sampling` against these.
    """

    loss: Callable[..., Tensor]
    columns: tuple[str, ...]
    priority: Literal["reward", "advantage", "abs_advantage"] | None
    group: bool = False
    filter: Literal["none", "positive"] = "none"
    signed: bool = False


OFFLINE = {
    "nll": Algorithm(nll, (), None),
    "wbc": Algorithm(wbc, ("reward",), "reward"),
    "r_gold": Algorithm(r_gold, ("reward",), "reward"),
    "r_lol": Algorithm(r_lol, ("ref_logp", "reward"), "reward"),
    "a_lol": Algorithm(a_lol, ("ref_logp", "advantage"), "advantage", filter="positive"),
    "a_lol_ref_free": Algorithm(a_lol_ref_free, ("advantage",), "advantage", filter="positive"),
    "a_lol_seq": Algorithm(a_lol_seq, ("ref_logp", "advantage"), "advantage", filter="positive"),
    "a_lol_kl": Algorithm(a_lol_kl, ("ref_logp", "advantage"), "advantage", filter="positive"),
}
