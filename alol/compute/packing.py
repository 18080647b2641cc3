"""Sequences laid end to end in one row of tokens, without padding, each attending to itself alone.

Linear layers and normalisations do not care which sequence a token is of; only attention does, and it is given the
pieces. Responses to one prompt share its tokens: they attend to the prompt's keys and values, computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers.integrations.sdpa_attention import repeat_kv

SHARED = 32  # tokens of a prompt from which on reading it once costs less than the calls that sharing it takes


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Pieces of tokens in one row: input_ids and position_ids [1, L].

    `sizes` of the pieces add up to L. A piece attends to itself (if `causal`, to what came so far), and before it to
    the piece that `before` names (-1: none).
    """

    input_ids: Tensor
    position_ids: Tensor
    sizes: tuple[int, ...]
    before: tuple[int, ...]
    causal: bool = True

    @cached_property
    def bounds(self) -> tuple[Tensor, int]:
        """Where each piece begins, and where the last one ends [pieces + 1]; the size of the longest."""
        return cumulative_lengths(self.sizes, self.input_ids.device)

    @property
    def starts(self) -> Tensor:
        """The position of each piece's first token."""
        return self.bounds[0][:-1].long()

    @property
    def ends(self) -> Tensor:
        """The position of each piece's last token."""
        return self.bounds[0][1:].long() - 1

    @cached_property
    def seen(self) -> tuple[Tensor | None, tuple[Tensor, int]]:
        """The positions that each piece attends to, piece by piece (None: its own), and the bounds of these."""
        if max(self.before) < 0:
            return None, self.bounds
        starts = [0, *accumulate(self.sizes)]
        groups = [
            [place for piece in ((k, i) if k >= 0 else (i,)) for place in range(starts[piece], starts[piece + 1])]
            for i, k in enumerate(self.before)
        ]
        device = self.input_ids.device
        return torch.tensor([*chain(*groups)], device=device), cumulative_lengths(list(map(len, groups)), device)

    @cached_property
    def masks(self) -> list[Tensor | None]:
        """Who sees whom in a piece with another before it: [size, size of before + size]."""
        device = self.input_ids.device
        return [
            _mask(n, self.sizes[k], device) if k >= 0 else None for n, k in zip(self.sizes, self.before, strict=True)
        ]

    @cached_property
    def runs(self) -> list[tuple[int, ...]]:
        """Neighbouring pieces of one size, which attend in one call; those that share tokens are alone."""
        shared = {*self.before}

        def kind(i: int) -> tuple[int, int]:
            return self.sizes[i], i if self.before[i] >= 0 or i in shared else -1

        return [tuple(group) for _, group in groupby(range(len(self.sizes)), key=kind)]

    @cached_property
    def spans(self) -> list[int]:
        """The tokens of each run; they add up to L."""
        return [len(run) * self.sizes[run[0]] for run in self.runs]

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None
    ) -> Tensor:
        """Attention within each piece, and to the piece before it."""
        if (dtype := kernel_precision(query, dropout)) is not None:
            places, bounds = self.seen
            key, value = (x if places is None else x[:, :, places] for x in (key, value))
            return at_once(*(x.to(dtype) for x in (query, key, value)), self.bounds, bounds, self.causal, scaling)
        groups = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        # split, not slices: the gradient of a split is one concatenation
        split = [x.split(self.spans, dim=2) for x in (query, key, value)]
        place = {run[0]: n for n, run in enumerate(self.runs)}  # of each piece that others share: those are alone
        found = []
        for run, q, k, v in zip(self.runs, *split, strict=True):
            before, mask = self.before[run[0]], self.masks[run[0]]
            if before >= 0:
                k, v = (torch.cat([x[place[before]], own], dim=2) for x, own in zip(split[1:], (k, v), strict=True))
            attended = F.scaled_dot_product_attention(
                *(apart(x, len(run)) for x in (q, k, v)),
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=self.causal and mask is None,
                scale=scaling,
            )
            # token by token, as the kernel wrote them
            found.append(attended.transpose(1, 2).reshape(1, -1, *query.shape[1::2]))
        return torch.cat(found, dim=1)


def kernel_precision(query: Tensor, dropout: float) -> torch.dtype | None:
    """The precision in which pieces of all sizes attend in one call; None where there is no kernel for it.

    It is flash attention's, in 16 bits and without dropout.
    """
    if not query.is_cuda or dropout or query.shape[-1] % 8 or query.shape[-1] > 256:
        return None
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    new = torch.cuda.get_device_capability(query.device) >= (8, 0)
    return dtype if new and dtype in (torch.bfloat16, torch.float16) else None


def at_once(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: tuple[Tensor, int],
    keys: tuple[Tensor, int],
    causal: bool,
    scaling: float | None,
) -> Tensor:
    """Attention of pieces end to end with bounds of their queries and keys, [1, heads, L, D] each: [1, L, heads, D].

    A causal piece's last query sees all of its keys, the one before all but one, and so on.
    """
    rows = (x[0].transpose(0, 1) for x in (query, key, value))
    (begins, longest), (key_begins, longest_key) = queries, keys
    found = varlen_attn(
        *rows, begins, key_begins, longest, longest_key, scale=scaling, window_size=(-1, 0 if causal else -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return found[None]


def apart(row: Tensor, count: int) -> Tensor:
    """`count` pieces of one size [1, heads, count x size, D] as a batch: [count, heads, size, D]."""
    if count == 1:
        return row
    return row.view(row.shape[1], count, -1, row.shape[3]).transpose(0, 1)  # not row[0], whose gradient fills zeros


@dataclass(frozen=True)
class Layout:
    """Packed prompts and responses: `predictors` [N] are the positions that predict each response token in turn, row
    by row; `starts` and `lengths` are those of each row's prompt."""

    packed: Packed
    predictors: Tensor
    starts: tuple[int, ...]
    lengths: tuple[int, ...]


def layout(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    device: torch.device | str,
) -> Layout:
    """The rows of a batch without padding, longest first; equal prompts are laid out once where that pays.

    The last token of a response predicts nothing that is asked for, so it is left out.
    """
    ids: list[int] = []
    positions: list[int] = []
    sizes: list[int] = []
    before: list[int] = []
    starts, predictors = [0] * len(prompts), [range(0)] * len(prompts)
    for rows in _together(prompts, responses):
        prompt, start = prompts[rows[0]], len(ids)
        ids += prompt
        positions += range(len(prompt))
        sizes.append(len(prompt))
        before.append(-1)
        first = len(sizes) - 1
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
                sizes[first] += len(tail)
            else:
                sizes.append(len(tail))
                before.append(first)
    found = [position for row in predictors for position in row]
    tokens, places, indices = (torch.tensor(x, dtype=torch.long, device=device) for x in (ids, positions, found))
    packed = Packed(input_ids=tokens[None], position_ids=places[None], sizes=tuple(sizes), before=tuple(before))
    return Layout(packed, indices, tuple(starts), tuple(map(len, prompts)))


def _together(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows that share their prompt's tokens, longest first: rows of one length are neighbours and attend at once."""
    members: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        members.setdefault(tuple(prompt), []).append(i)
    found: list[list[int]] = []
    for prompt, rows in members.items():
        answered = [i for i in rows if len(responses[i])]
        if len(answered) < 2 or len(prompt) >= SHARED:
            found.append(rows)
        else:
            found += [[i] for i in answered]
            found[-1] += [i for i in rows if not len(responses[i])]
    return sorted(found, key=lambda rows: -len(prompts[rows[0]]) - sum(len(responses[i]) for i in rows))


def sequences(
    ids: Sequence[Sequence[int]], device: torch.device | str, *, causal: bool = True, start: int = 0
) -> Packed:
    """Sequences end to end, none of them empty, whose positions are counted from `start`."""
    places = [position for row in ids for position in range(start, start + len(row))]
    tokens, positions = (
        torch.tensor(x, dtype=torch.long, device=device)[None] for x in ([i for row in ids for i in row], places)
    )
    sizes, none = tuple(map(len, ids)), (-1,) * len(ids)
    return Packed(input_ids=tokens, position_ids=positions, sizes=sizes, before=none, causal=causal)


def cumulative_lengths(sizes: Sequence[int], device: torch.device) -> tuple[Tensor, int]:
    """`cu_seqlens` [pieces + 1], where each piece begins and where the last ends, and `max_seqlen`, of the longest."""
    return torch.tensor([0, *accumulate(sizes)], dtype=torch.int32, device=device), max(sizes)


def _mask(size: int, prefix: int, device: torch.device | str) -> Tensor:
    """A piece sees all that is before it and, of itself, what came so far."""
    return torch.ones(size, prefix + size, dtype=torch.bool, device=device).tril(prefix)
