"""The vocabulary projection and log-softmax of the positions that predict a token, a block of logits at a time.

The gradient of the logits is never stored: only its products with the states and the weight are needed, and both follow
from the probabilities. With g_n the gradient of logp_n, p_n the softmax and e the unit vector of the target, the
states' gradient is g_n (W[y_n] - p_n W) and the weight's sum_n g_n (e[y_n] - p_n) h_n. So no pass over the logits
follows the softmax, and since the g_n come in at the very end, weights that depend on a whole sequence need no second
forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 2**25  # logits held at once: 128 MiB in fp32
RARE = 1e-30  # below it, ln of a probability loses digits


def token_logp(states: Tensor, head: nn.Module, targets: Tensor, block: int = BLOCK) -> Tensor:
    """ln p(target) [N], fp32, from states [N, H] and targets [N] under the linear layer `head` (H to V).

    At most `block` logits are held at once, for the backward pass too. Another layer than a plain nn.Linear (one with
    an adapter, or in 4 bits) is called as it is.
    """
    if type(head) is nn.Linear:
        if torch.is_autocast_enabled(states.device.type):
            states = states.to(torch.get_autocast_dtype(states.device.type))
        return _TokenLogp.apply(states, head.weight, head.bias, targets, max(1, block // head.out_features))
    logits = head(states).float()
    return -nn.functional.cross_entropy(logits, targets, reduction="none")


class _TokenLogp(torch.autograd.Function):
    """Keeps the probabilities of the last block for the backward pass and computes those of the others again."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: int) -> Tensor:
        needed = any(ctx.needs_input_grad)
        logp = torch.empty(len(targets), dtype=torch.float32, device=states.device)
        last = None
        for part in _parts(len(targets), rows):
            last = None  # freed before the next block is made
            last = _probabilities(states[part], weight, bias)
            logp[part] = _logp(last, states[part], weight, bias, targets[part])
        if needed:
            ctx.rows = rows
            ctx.save_for_backward(states, weight, bias, targets, last)
        return logp

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, targets, kept = ctx.saved_tensors
        to_states, to_weight, to_bias, *_ = ctx.needs_input_grad
        grad_states = torch.empty_like(states) if to_states else None
        grad_weight = torch.zeros_like(weight) if to_weight else None
        grad_bias = torch.zeros_like(bias) if to_bias else None
        used = weight.to(states.dtype)
        parts = _parts(len(targets), ctx.rows)
        for part in reversed(parts):
            p = kept if part is parts[-1] else _probabilities(states[part], weight, bias)
            kept = None
            p = p.to(states.dtype)
            g, y = grad[part, None].to(states.dtype), targets[part]
            if grad_states is not None:
                grad_states[part] = (used[y] - p @ used) * g
            if grad_weight is not None:
                scaled = states[part] * g
                grad_weight.addmm_(p.T.to(weight.dtype), scaled.to(weight.dtype), alpha=-1)
                grad_weight.index_add_(0, y, scaled.to(weight.dtype))
            if grad_bias is not None:
                grad_bias -= (p * g).sum(0)
                grad_bias.index_add_(0, y, g[:, 0].to(bias.dtype))
        return grad_states, grad_weight, grad_bias, None, None


def _parts(count: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    cast = (x if x is None else x.to(states.dtype) for x in (weight, bias))
    return nn.functional.linear(states, *cast).float()


def _probabilities(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = _logits(states, weight, bias)
    return torch.softmax(logits, dim=-1, out=logits)


def _logp(p: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    target_p = p.gather(1, targets[:, None])[:, 0]
    logp = target_p.log()
    if (rare := target_p < RARE).any():
        logp[rare] = -nn.functional.cross_entropy(_logits(states[rare], weight, bias), targets[rare], reduction="none")
    return logp
