"""Token ids to tensors, and rows to micro-batches of similar length under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the left, responses on the right, so that responses start at one column.

    input_ids, attention_mask, position_ids: [B, P + T]; response_ids, response_mask: [B, T] (T = 0 without responses).
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    response_ids: Tensor
    response_mask: Tensor

    @property
    def prompt_length(self) -> int:
        return self.input_ids.shape[1] - self.response_ids.shape[1]


def pad(ids: Sequence[Sequence[int]], pad_id: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Token ids [B, L] and their mask [B, L] (1 on tokens), padded to the longest."""
    length = max(map(len, ids), default=0)
    tokens = torch.full((len(ids), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(ids), length), dtype=torch.long)
    for i, row in enumerate(ids):
        span = slice(length - len(row), length) if left else slice(0, len(row))
        tokens[i, span] = torch.as_tensor(row, dtype=torch.long)
        mask[i, span] = 1
    return tokens, mask


def positions(mask: Tensor) -> Tensor:
    """Position of each token among the tokens that are not padding: absolute embeddings must not count pads."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def collate(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int, device: torch.device | str
) -> Batch:
    """A Batch of prompt and response ids; masks come from the lengths, so a pad id equal to EOS does no harm."""
    prompt_ids, prompt_mask = pad(prompts, pad_id, left=True)
    response_ids, response_mask = pad(responses, pad_id, left=False)
    mask = torch.cat([prompt_mask, response_mask], dim=1)
    ids = torch.cat([prompt_ids, response_ids], dim=1)
    tensors = (ids, mask, positions(mask), response_ids, response_mask)
    return Batch(*(tensor.to(device) for tensor in tensors))


def right_padded(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows padded on either side [B, P] as an encoder wants them: tokens first. Returns ids, mask and the order [B, P].

    `moved.gather(1, order.argsort(1))` undoes it.
    """
    order = mask.argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, order), mask.gather(1, order), order


def chunks(lengths: Sequence[int], rows: int, tokens: int) -> list[list[int]]:
    """Indices in batches of at most `rows` and, padded to their longest, at most `tokens` (at least one row each).

    Sorted by length, longest first, so that padding is small and the largest batch comes at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    for i in order:
        if batches and len(batches[-1]) < rows and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
