"""Sequences laid end to end in one row of tokens, without padding, each attending to itself alone.

Linear layers and normalisations do not care which sequence a token is of; only attention does, and it is given the
pieces. Responses to one prompt share its tokens: they attend to the prompt's keys and values, computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

NAME = "packed"
# Decoders whose attention takes the pieces, and whose logits are a linear layer of the last hidden states: each is
# compared with its own padded forward in the tests.
DECODERS = ("gpt2", "gpt_neox", "llama", "mistral", "opt", "phi", "qwen2", "qwen3")


@dataclass(frozen=True)
class Packed:
    """Pieces of tokens in one row: input_ids and position_ids [1, L].

    `sizes` of the pieces add up to L. A piece attends to itself, and before it to the piece `before` names (-1: none;
    its tokens then come first in the sequence, and `masks` holds who sees whom, [size, size of before + size]).
    """

    input_ids: Tensor
    position_ids: Tensor
    sizes: tuple[int, ...]
    before: tuple[int, ...]
    masks: tuple[Tensor | None, ...]

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None
    ) -> Tensor:
        """Causal attention within each piece, and to the piece before it."""
        groups = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        # split, not slices: the gradient of a split is one concatenation
        q, k, v = (x.split(self.sizes, dim=2) for x in (query, key, value))
        pieces = []
        for i, (before, mask) in enumerate(zip(self.before, self.masks, strict=True)):
            keys, values = (k[i], v[i]) if before < 0 else (torch.cat([x[before], x[i]], dim=2) for x in (k, v))
            pieces.append(
                F.scaled_dot_product_attention(
                    q[i], keys, values, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
                )
            )
        return torch.cat(pieces, dim=2).transpose(1, 2)


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
    *,
    share: bool = True,
) -> Layout:
    """The rows of a batch without padding; equal prompts are laid out once if they `share` their tokens.

    The last token of a response predicts nothing that is asked for, so it is left out.
    """
    members: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for i, prompt in enumerate(prompts):
        members.setdefault((tuple(prompt), 0 if share else i), []).append(i)
    ids: list[int] = []
    positions: list[int] = []
    sizes: list[int] = []
    before: list[int] = []
    starts, predictors = [0] * len(prompts), [range(0)] * len(prompts)
    for (prompt, _), rows in members.items():
        start = len(ids)
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
    masks = tuple(_mask(size, sizes[k], device) if k >= 0 else None for size, k in zip(sizes, before, strict=True))
    tokens, places, indices = (torch.tensor(x, dtype=torch.long, device=device) for x in (ids, positions, found))
    packed = Packed(tokens[None], places[None], tuple(sizes), tuple(before), masks)
    return Layout(packed, indices, tuple(starts), tuple(map(len, prompts)))


def _mask(size: int, prefix: int, device: torch.device | str) -> Tensor:
    """A piece sees all that is before it and, of itself, what came so far."""
    return torch.ones(size, prefix + size, dtype=torch.bool, device=device).tril(prefix)


def packable(model: nn.Module) -> bool:
    """Whether `states` can run the model's sequences unpadded; makes it ready to."""
    base = getattr(model, "get_base_model", lambda: model)()
    config = base.config
    if config.model_type not in DECODERS:
        return False
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        return False
    if config._attn_implementation == "sdpa":
        base.set_attn_implementation(NAME)
    return config._attn_implementation == NAME


def states(model: nn.Module, packed: Any) -> Tensor:
    """Last hidden states [L, H] of a decoder for which `packable` is true, in the model's own precision."""
    base = getattr(model, "get_base_model", lambda: model)()
    # a mask of four dimensions is taken for a finished one: none is built, and `attention` does without
    none = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=packed.input_ids.device)
    output = base.base_model(
        input_ids=packed.input_ids,
        attention_mask=none,
        position_ids=packed.position_ids,
        use_cache=False,
        packed=packed,
    )
    return output.last_hidden_state[0]


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed: Packed | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What `packed` does with query [1, heads, L, D], key and value [1, key heads, L, D]: [1, L, heads, D].

    Without `packed`, the library's own attention.
    """
    if packed is not None:
        return packed.attend(module, query, key, value, dropout, scaling), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
