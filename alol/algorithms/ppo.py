"""Proximal policy optimisation over response tokens: pure functions of tensors.

Shapes: `logp`, `ref_logp`, `values`, `rewards`, `mask` are [B, T] over response tokens, `mask` 1 on them and 0 on
padding; `score` [B] is the reward of the whole response. Losses are sums over the tokens of a batch, so that
micro-batches add up; the caller divides by the number of tokens.
Sources: PPO arXiv 1707.06347, generalised advantage estimation 1506.02438, the adaptive KL penalty 1909.08593.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from alol.config.ranges import Count, NotNegative, Passes, Positive, Share, UpToOne, above

if TYPE_CHECKING:  # stages.check reads the options' names, and starts without torch
    from torch import Tensor


@dataclass(frozen=True)
class Options:
    """The keys of algorithms.ppo; their meanings stand in params.yaml."""

    updates_per_rollout: Count
    temperature: Positive
    top_p: UpToOne
    epochs: Passes
    minibatches: Count
    lr_scale: Positive
    clip_norm: Positive | None
    clip: Positive
    value_clip: Positive
    value_weight: NotNegative
    gamma: Share
    lam: Share
    kl_coef: NotNegative
    kl_target: Positive | None
    kl_horizon: Positive
    scale_scores: bool
    center_scores: bool
    ratio_limit: Annotated[float, above(1)]


def token_rewards(*, score: Tensor, logp: Tensor, ref_logp: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """-kl_coef (ln pi - ln pi_ref) at each token, and the score at the last one: [B, T]."""
    rewards = -kl_coef * (logp - ref_logp) * mask
    last = mask.sum(-1).long() - 1
    return rewards.scatter_add(1, last.unsqueeze(1), score.unsqueeze(1).to(rewards.dtype))


def gae(*, rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages A_t = d_t + gamma lam A_(t+1) with d_t = r_t + gamma V_(t+1) - V_t, and returns A + V: [B, T] each."""
    values, advantages = values * mask, values.new_zeros(values.shape)
    following, next_value = values.new_zeros(len(values)), values.new_zeros(len(values))
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        advantages[:, t], next_value = following, values[:, t]
    return advantages, (advantages + values) * mask


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and (unbiased) variance 1 over the tokens of the batch; 0 on padding."""
    count = mask.sum()
    mean = (x * mask).sum() / count
    variance = (((x - mean) * mask) ** 2).sum() / (count - 1).clamp(min=1)
    return (x - mean) * (variance + 1e-8).rsqrt() * mask


def policy_loss(*, logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Sum over tokens of -min(w A, clip(w, 1 - clip, 1 + clip) A) with w = pi / pi_old."""
    ratio = (logp - old_logp).exp()
    return -((ratio * advantage).minimum(ratio.clamp(1 - clip, 1 + clip) * advantage) * mask).sum()


def value_loss(*, values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Sum over tokens of half the larger squared error, of V and of V kept within `clip` of its old value."""
    clipped = values.clamp(old_values - clip, old_values + clip)
    return 0.5 * (((values - returns) ** 2).maximum((clipped - returns) ** 2) * mask).sum()


def adapted_kl_coef(kl_coef: float, kl: float, target: float, count: int, horizon: float) -> float:
    """The penalty after `count` responses whose summed log-ratio was `kl` on average, moved towards `target`."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * count / horizon)


@dataclass
class RunningMoments:
    """Mean and unbiased standard deviation of all scores so far (parallel variance, Chan et al. 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # summed squared deviations from the mean

    def update(self, scores: Tensor) -> None:
        """Adds a batch of scores [B]."""
        count, mean = len(scores), float(scores.mean())
        total, delta = self.count + count, mean - self.mean
        self.squares += float(((scores - mean) ** 2).sum()) + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    @property
    def std(self) -> float:
        return (self.squares / (self.count - 1)) ** 0.5 if self.count > 1 else 1.0
