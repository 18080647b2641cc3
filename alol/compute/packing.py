"""Packed sequences: several sequences in one row of tokens without padding, each of which attends to itself alone.

Linear layers and normalisations treat each token by itself. Only attention has to know where sequences begin and end.
Responses to one prompt can share its tokens: they attend to the prompt's keys and values, which are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers.integrations.sdpa_attention import repeat_kv

SHARED = 32  # tokens of a prompt from which on reading it once costs less than the calls that sharing it takes


class SequenceLengths(NamedTuple):
    """The lengths of packed segments, as kernels for variable lengths take them.

    `cu_seqlens` [segments + 1], int32, holds the cumulative lengths: segment i has the tokens cu_seqlens[i] to
    cu_seqlens[i + 1]. `max_seqlen` is the length of the longest segment.
    """

    cu_seqlens: Tensor
    max_seqlen: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> SequenceLengths:
        return cls(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device), max(lengths))


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Segments of tokens in one row: `input_ids` and `position_ids` are [1, L], and the `lengths` add up to L.

    A segment attends to itself: to all of its tokens or, if `causal`, to those up to the querying one. If `prefix`
    names another segment (-1: none), as a response names its prompt, it attends to all tokens of that one too.
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...]
    prefix: tuple[int, ...]
    causal: bool = True

    @cached_property
    def query_lengths(self) -> SequenceLengths:
        return SequenceLengths.of(self.lengths, self.input_ids.device)

    @property
    def starts(self) -> Tensor:
        """The position in the row of each segment's first token: [segments]."""
        return self.query_lengths.cu_seqlens[:-1].long()

    @property
    def ends(self) -> Tensor:
        """The position in the row of each segment's last token: [segments]."""
        return self.query_lengths.cu_seqlens[1:].long() - 1

    @cached_property
    def keys(self) -> tuple[Tensor | None, SequenceLengths]:
        """The positions of the keys that each segment attends to, segment after segment, and how many each has.

        None stands for all positions in their order: no segment has a prefix.
        """
        if max(self.prefix) < 0:
            return None, self.query_lengths
        starts = [0, *accumulate(self.lengths)]
        positions = [
            [place for segment in ((k, i) if k >= 0 else (i,)) for place in range(starts[segment], starts[segment + 1])]
            for i, k in enumerate(self.prefix)
        ]
        device = self.input_ids.device
        lengths = SequenceLengths.of(list(map(len, positions)), device)
        return torch.tensor([*chain(*positions)], device=device), lengths

    @cached_property
    def masks(self) -> list[Tensor | None]:
        """The attention mask of each segment with a prefix: [length, length of the prefix + length]."""
        device = self.input_ids.device
        return [
            _causal_mask(n, self.lengths[k], device) if k >= 0 else None
            for n, k in zip(self.lengths, self.prefix, strict=True)
        ]

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        """Neighbouring segments of one length, which attend in one call. Prefixes, and segments with one, are alone."""
        prefixes = {*self.prefix}

        def kind(i: int) -> tuple[int, int]:
            return self.lengths[i], i if self.prefix[i] >= 0 or i in prefixes else -1

        return [tuple(group) for _, group in groupby(range(len(self.lengths)), key=kind)]

    @cached_property
    def group_tokens(self) -> list[int]:
        """The number of tokens of each group; they add up to L."""
        return [len(group) * self.lengths[group[0]] for group in self.groups]

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None
    ) -> Tensor:
        """Computes attention within each segment and to its prefix: [1, L, heads, D]."""
        if (dtype := varlen_dtype(query, dropout)) is not None:
            positions, key_lengths = self.keys
            key, value = (x if positions is None else x[:, :, positions] for x in (key, value))
            return varlen_attention(
                *(x.to(dtype) for x in (query, key, value)), self.query_lengths, key_lengths, self.causal, scaling
            )
        repeats = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
        # split, not slices: the gradient of a split is one concatenation
        split = [x.split(self.group_tokens, dim=2) for x in (query, key, value)]
        group_of = {group[0]: n for n, group in enumerate(self.groups)}  # of each prefix: those are groups of their own
        outputs = []
        for group, q, k, v in zip(self.groups, *split, strict=True):
            prefix, mask = self.prefix[group[0]], self.masks[group[0]]
            if prefix >= 0:
                k, v = (torch.cat([x[group_of[prefix]], own], dim=2) for x, own in zip(split[1:], (k, v), strict=True))
            output = F.scaled_dot_product_attention(
                *(as_batch(x, len(group)) for x in (q, k, v)),
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=self.causal and mask is None,
                scale=scaling,
            )
            # back to one row of tokens
            outputs.append(output.transpose(1, 2).reshape(1, -1, *query.shape[1::2]))
        return torch.cat(outputs, dim=1)


def varlen_dtype(query: Tensor, dropout: float) -> torch.dtype | None:
    """The precision in which the kernel for variable lengths attends; None where it cannot be used.

    The kernel is flash attention's: on a GPU, in 16 bits and without dropout.
    """
    if not query.is_cuda or dropout or query.shape[-1] % 8 or query.shape[-1] > 256:
        return None
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    new = torch.cuda.get_device_capability(query.device) >= (8, 0)
    return dtype if new and dtype in (torch.bfloat16, torch.float16) else None


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_lengths: SequenceLengths,
    key_lengths: SequenceLengths,
    causal: bool,
    scaling: float | None,
) -> Tensor:
    """Attention of packed segments of any lengths in one call: [1, heads, L, D] each to [1, L, heads, D].

    In a causal segment the last query sees all of its keys, the one before it all but the last key, and so on.
    """
    rows = (x[0].transpose(0, 1) for x in (query, key, value))  # [L, heads, D]
    output = varlen_attn(
        *rows, query_lengths.cu_seqlens, key_lengths.cu_seqlens, query_lengths.max_seqlen, key_lengths.max_seqlen,
        scale=scaling, window_size=(-1, 0 if causal else -1), enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return output[None]


def as_batch(row: Tensor, count: int) -> Tensor:
    """`count` segments of one length [1, heads, count x length, D] as a batch: [count, heads, length, D]."""
    if count == 1:
        return row
    return row.view(row.shape[1], count, -1, row.shape[3]).transpose(0, 1)  # not row[0], whose gradient fills zeros


@dataclass(frozen=True)
class Layout:
    """Packed prompts and responses, and where each row of the batch is in them.

    `predictors` [N] are the positions whose hidden states predict the response tokens, row after row. `prompt_starts`
    and `prompt_lengths` say where the prompt of each row is.
    """

    packed: Packed
    predictors: Tensor
    prompt_starts: tuple[int, ...]
    prompt_lengths: tuple[int, ...]


def layout(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    device: torch.device | str,
) -> Layout:
    """Packs the rows of a batch, longest first. Rows with the same prompt share its tokens where that pays.

    The last token of a response predicts nothing that is needed, so it is left out.
    """
    ids: list[int] = []
    positions: list[int] = []
    lengths: list[int] = []
    prefix: list[int] = []
    starts, predictors = [0] * len(prompts), [range(0)] * len(prompts)
    for rows in _sharing(prompts, responses):
        prompt, start = prompts[rows[0]], len(ids)
        ids += prompt
        positions += range(len(prompt))
        lengths.append(len(prompt))
        prefix.append(-1)
        first = len(lengths) - 1
        answered = [i for i in rows if len(responses[i])]
        for i in rows:
            starts[i] = start
        for i in answered:
            tail = responses[i][:-1]
            predictors[i] = range(len(ids) - 1, len(ids) + len(tail))
            if len(answered) > 1:
                predictors[i] = [start + len(prompt) - 1, *predictors[i][1:]]
            if not tail:
                continue
            ids += tail
            positions += range(len(prompt), len(prompt) + len(tail))
            if len(answered) == 1:
                lengths[first] += len(tail)
            else:
                lengths.append(len(tail))
                prefix.append(first)
    flat = [position for row in predictors for position in row]
    input_ids, position_ids, indices = (
        torch.tensor(x, dtype=torch.long, device=device) for x in (ids, positions, flat)
    )
    packed = Packed(
        input_ids=input_ids[None], position_ids=position_ids[None], lengths=tuple(lengths), prefix=tuple(prefix)
    )
    return Layout(packed, indices, tuple(starts), tuple(map(len, prompts)))


def _sharing(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[list[int]]:
    """Groups of rows that share one copy of their prompt, longest first, so that equal lengths are neighbours.

    A row whose prompt is too short to be worth sharing is a group of its own; rows without a response join another.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_prompt.setdefault(tuple(prompt), []).append(i)
    groups: list[list[int]] = []
    for prompt, rows in by_prompt.items():
        answered = [i for i in rows if len(responses[i])]
        if len(answered) < 2 or len(prompt) >= SHARED:
            groups.append(rows)
        else:
            groups += [[i] for i in answered]
            groups[-1] += [i for i in rows if not len(responses[i])]
    return sorted(groups, key=lambda rows: -len(prompts[rows[0]]) - sum(len(responses[i]) for i in rows))


def sequences(
    ids: Sequence[Sequence[int]], device: torch.device | str, *, causal: bool = True, start: int = 0
) -> Packed:
    """Packs sequences, none of them empty, whose positions are counted from `start`."""
    positions = [position for row in ids for position in range(start, start + len(row))]
    input_ids, position_ids = (
        torch.tensor(x, dtype=torch.long, device=device)[None] for x in ([i for row in ids for i in row], positions)
    )
    return Packed(
        input_ids=input_ids, position_ids=position_ids, lengths=tuple(map(len, ids)), prefix=(-1,) * len(ids),
        causal=causal,
    )  # fmt: skip


def _causal_mask(length: int, prefix: int, device: torch.device | str) -> Tensor:
    """The mask of a segment that sees all `prefix` tokens of its prefix and, of itself, the tokens so far."""
    return torch.ones(length, prefix + length, dtype=torch.bool, device=device).tril(prefix)
