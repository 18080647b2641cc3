"""The method as one writes it at first: two models, padded batches in the order of the file, logits of every position.

Masks and positions are right, so that losses and gradients are those of the pipeline; everything else is left plain.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Ids = Sequence[Sequence[int]]


def token_logp(model: nn.Module, prompts: Ids, responses: Ids, pad_id: int) -> Tensor:
    """ln pi(y_t | x, y_<t) [B, P + T - 1], 0 where no response token is predicted.

    Prompts padded on the left, responses on the right, the whole vocabulary at every position.
    """
    before, after = max(map(len, prompts)), max(map(len, responses))
    ids = torch.full((len(prompts), before + after), pad_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        start, end = before - len(prompt), before + len(response)
        ids[i, start:end] = torch.tensor([*prompt, *response])
        mask[i, start:end] = 1
        labels[i, before:end] = torch.tensor(response)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    device = next(model.parameters()).device
    ids, mask, labels, positions = (x.to(device) for x in (ids, mask, labels, positions))
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    shifted = logits[:, :-1].contiguous().view(-1, logits.shape[-1]).float()
    losses = F.cross_entropy(shifted, labels[:, 1:].reshape(-1), reduction="none", ignore_index=-100)
    return -losses.view(len(prompts), -1)


def a_lol(
    policy: nn.Module, reference: nn.Module, prompts: Ids, responses: Ids, advantages: Tensor, clip: float, pad_id: int
) -> Tensor:
    """The mean A-LoL loss over a batch; the reference runs beside the policy."""
    logp = token_logp(policy, prompts, responses, pad_id)
    with torch.no_grad():
        ref_logp = token_logp(reference, prompts, responses, pad_id)
    weight = (logp.detach() - ref_logp).sum(-1).exp().clamp(1 - clip, 1 + clip) * advantages.clamp(min=0)
    return -(weight * logp.sum(-1)).mean()
