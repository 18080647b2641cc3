"""Turns token ids into tensors, and groups rows of similar length into micro-batches under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from alol.compute.packing import Layout, layout


@dataclass(frozen=True)
class Batch:
    """Prompts and responses as token ids; the tensors are made when they are first used.

    `response_ids`, `response_mask`: [B, T], padded on the right (T = 0 without responses). Models that need padding
    take `input_ids`, `attention_mask` and `position_ids` [B, P + T]: prompts are padded on the left, so that all
    responses start at one column. Models that run packed sequences take `layout`, which has no padding.
    Masks are computed from the lengths, so the pad id may be that of the end of text.
    """

    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]
    pad_id: int
    device: torch.device | str

    @property
    def input_ids(self) -> Tensor:
        return self._joined[0]

    @property
    def attention_mask(self) -> Tensor:
        return self._joined[1]

    @cached_property
    def position_ids(self) -> Tensor:
        return positions(self.attention_mask)

    @property
    def response_ids(self) -> Tensor:
        return self._response[0]

    @property
    def response_mask(self) -> Tensor:
        return self._response[1]

    @property
    def prompt_length(self) -> int:
        return max(map(len, self.prompts), default=0)

    @cached_property
    def layout(self) -> Layout:
        return layout(self.prompts, self.responses, self.device)

    @cached_property
    def prompt_ids(self) -> tuple[Tensor, Tensor]:
        """The prompts alone and their mask, padded on the right as an encoder wants them: [B, P] each."""
        ids, mask = pad(self.prompts, self.pad_id, left=False)
        return ids.to(self.device), mask.to(self.device)

    @cached_property
    def _response(self) -> tuple[Tensor, Tensor]:
        ids, mask = pad(self.responses, self.pad_id, left=False)
        return ids.to(self.device), mask.to(self.device)

    @cached_property
    def _joined(self) -> tuple[Tensor, Tensor]:
        prompts = (x.to(self.device) for x in pad(self.prompts, self.pad_id, left=True))
        ids, mask = (torch.cat(pair, dim=1) for pair in zip(prompts, self._response, strict=True))
        return ids, mask


def pad(ids: Sequence[Sequence[int]], pad_id: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Pads token ids to the longest row: ids [B, L] and their mask [B, L], 1 on tokens and 0 on padding."""
    lengths = torch.tensor([len(row) for row in ids], dtype=torch.long)[:, None]
    places = torch.arange(int(lengths.max()) if len(ids) else 0)
    mask = places >= len(places) - lengths if left else places < lengths
    flat = torch.tensor(list(chain.from_iterable(ids)), dtype=torch.long)
    return torch.full(mask.shape, pad_id).masked_scatter_(mask, flat), mask.long()


def positions(mask: Tensor) -> Tensor:
    """The position ids of tokens under a mask [B, L]: padding is not counted, so absolute embeddings are right."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def share(lengths: Sequence[int], count: int, index: int) -> list[int]:
    """The row indices of process `index` of `count`, longest first: each row goes to whoever has the fewest tokens yet.

    So all of them are done at about the same time (Graham, 1969: at most a third later than the best dealing).
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    tokens, mine = [0] * count, []
    for i in order:
        owner = tokens.index(min(tokens))
        tokens[owner] += lengths[i]
        if owner == index:
            mine.append(i)
    return mine


def chunks(lengths: Sequence[int], rows: int, tokens: int) -> list[list[int]]:
    """Splits the row indices into batches of at most `rows` rows and at most `tokens` tokens, padding included.

    Rows are sorted by length, longest first: padding is small, and a batch too large for the memory comes first. A row
    with more tokens is a batch by itself.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    for i in order:
        if batches and len(batches[-1]) < rows and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
