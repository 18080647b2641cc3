"""Continuous batching: when a response has ended, the next prompt takes its place, and nothing is padded.

Prompts are read as packed sequences (alol.compute.packing). Their keys and values are stored in slots; the slots in use
always come first. Each step generates one token of every sequence in a slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alol.compute import packed_models, packing

Choose = Callable[[Tensor, list[int]], list[int]]  # from logits [n, V] of the sequences named, a token for each


@dataclass
class Slots:
    """The key-value cache: for each layer that has written, keys and values [slots, key heads, capacity, D]."""

    count: int
    capacity: int
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)

    def layer(self, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of a layer, in the type of `like` [1, key heads, L, D], the values to be stored.

        Under autocast the keys are wider than the values after their rotation, and attention rounds them again.
        """
        if index not in self.keys:
            shape = (self.count, like.shape[1], self.capacity, like.shape[3])
            self.keys[index], self.values[index] = like.new_zeros(shape), like.new_zeros(shape)
        return self.keys[index], self.values[index]

    def move(self, sources: list[int], targets: list[int], length: int) -> None:
        """Copies sequences of at most `length` tokens into other slots."""
        for buffers in (self.keys, self.values):
            for buffer in buffers.values():
                buffer[targets, :, :length] = buffer[sources, :, :length]


@dataclass(frozen=True, kw_only=True)
class Reading(packing.Packed):
    """Packed prompts (prefill): their keys and values are stored in the slots from `first` on."""

    slots: Slots
    first: int

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None
    ) -> Tensor:
        keys, values = self.slots.layer(module.layer_idx, value)
        for slot, (k, v) in enumerate(zip(*(x[0].split(self.lengths, dim=1) for x in (key, value)), strict=True)):
            keys[self.first + slot, :, : k.shape[1]], values[self.first + slot, :, : v.shape[1]] = k, v
        return super().attend(module, query, key, value, dropout, scaling)


@dataclass(frozen=True)
class Continuing:
    """One new token of each of the first n sequences (a decoding step); `lengths` [n] are their lengths so far."""

    input_ids: Tensor  # [1, n]
    position_ids: Tensor  # [1, n]
    slots: Slots
    lengths: Tensor
    mask: Tensor  # [n, 1, 1, longest + 1]

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None
    ) -> Tensor:
        keys, values = self.slots.layer(module.layer_idx, value)
        count, span = len(self.lengths), self.mask.shape[-1]
        rows = torch.arange(count, device=key.device)
        # unlike slices, places by index are not cast to the buffer's type
        new = (x[0].transpose(0, 1).to(keys.dtype) for x in (key, value))
        keys[rows, :, self.lengths], values[rows, :, self.lengths] = new
        # query heads that share a key head are as many queries to it
        grouped = query[0].transpose(0, 1).reshape(count, key.shape[1], -1, query.shape[-1])
        output = F.scaled_dot_product_attention(
            grouped, keys[:count, :, :span], values[:count, :, :span], attn_mask=self.mask, scale=scaling
        )
        return output.reshape(1, count, query.shape[1], -1)


@dataclass
class Run:
    """A batch of sequences that are being generated; `tokens` counts the tokens that went through the model."""

    model: nn.Module
    prompts: Sequence[Sequence[int]]
    slots: Slots
    device: torch.device
    active: list[int] = field(default_factory=list)  # the prompt in each slot
    lengths: list[int] = field(default_factory=list)  # of the sequences in the slots, without the latest token
    latest: list[int] = field(default_factory=list)
    tokens: int = 0

    def read(self, numbers: list[int]) -> Tensor:
        """Reads prompts, by their `numbers`, into the next slots; returns the logits [n, V] of their next tokens."""
        packed = packing.sequences([self.prompts[i] for i in numbers], self.device)
        logits = self._logits(Reading(**vars(packed), slots=self.slots, first=len(self.active)), packed.ends)
        self.active += numbers
        self.lengths += [len(self.prompts[i]) for i in numbers]
        self.tokens += sum(packed.lengths)
        return logits

    def step(self) -> Tensor:
        """Runs the latest token of every sequence; returns the logits [n, V] of their next tokens."""
        lengths = torch.tensor(self.lengths, device=self.device)
        mask = torch.arange(max(self.lengths) + 1, device=self.device) <= lengths[:, None]
        ids = torch.tensor([self.latest], device=self.device)
        logits = self._logits(Continuing(ids, lengths[None], self.slots, lengths, mask[:, None, None]), None)
        self.tokens += len(self.active)
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    def end(self, ended: list[int]) -> None:
        """Frees the slots `ended`; the sequences in the last slots move into them."""
        kept = len(self.active) - len(ended)
        holes = [slot for slot in ended if slot < kept]
        gone = set(ended)
        sources = [slot for slot in range(kept, len(self.active)) if slot not in gone]
        if holes:
            self.slots.move(sources, holes, max(self.lengths[slot] for slot in sources))
        for column in (self.active, self.lengths, self.latest):
            for hole, source in zip(holes, sources, strict=True):
                column[hole] = column[source]
            del column[kept:]

    def _logits(self, packed: Reading | Continuing, positions: Tensor | None) -> Tensor:
        return self.model.get_output_embeddings()(packed_models.states(self.model, packed, positions)).float()


@dataclass(frozen=True)
class Limits:
    """`longest`: tokens of a response; `slots`: sequences at once; `tokens`: of the prompts that are read at once."""

    longest: int
    slots: int
    tokens: int


@torch.no_grad()
def continuous(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    choose: Choose,
    ended: Callable[[list[list[int]], list[int]], list[bool]],
    limits: Limits,
    done: Callable[[int], object] = lambda count: None,
) -> tuple[list[list[int]], int]:
    """Generates a response to each prompt; returns their token ids and how many tokens went through the model.

    `choose` picks each sequence's next token from its logits. `ended` says which responses are complete; it takes the
    responses and the numbers of their prompts. The token that ended a response is part of it. A prompt longer than
    `limits.tokens` is read alone. `done` is called with the number of responses that have just ended.
    The model must be one of which `packed_models.packable` is true, in evaluation mode.
    """
    responses: list[list[int]] = [[] for _ in prompts]
    waiting = deque(sorted(range(len(prompts)), key=lambda i: -len(prompts[i])))
    capacity = max(map(len, prompts), default=0) + limits.longest
    run = Run(model, prompts, Slots(min(limits.slots, len(prompts)), capacity), next(model.parameters()).device)
    while waiting or run.active:
        free = run.slots.count - len(run.active)
        # reading a few prompts at a time would leave slots empty for less than it costs
        if waiting and (free >= max(1, run.slots.count // 8) or not run.active):
            first, rows = len(run.active), [waiting.popleft()]
            budget = limits.tokens - len(prompts[rows[0]])
            while waiting and len(rows) < free and len(prompts[waiting[0]]) <= budget:
                budget -= len(prompts[waiting[0]])
                rows.append(waiting.popleft())
            logits = run.read(rows)
        else:
            first, logits = 0, run.step()
        rows = run.active[first:]
        run.latest[first:] = choose(logits, rows)
        for i, token in zip(rows, run.latest[first:], strict=True):
            responses[i].append(token)
        over = ended([responses[i] for i in rows], rows)
        finished = [first + k for k, i in enumerate(rows) if over[k] or len(responses[i]) >= limits.longest]
        if finished:
            run.end(finished)
            done(len(finished))
    return responses, run.tokens
