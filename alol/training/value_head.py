"""The value head: a learned query that attends over a prompt's last hidden states, then a linear layer or an MLP.

It ends between the reward's bounds. Padding is masked, so V does not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import TypedDict

from alol.base import faults
from alol.base.errors import ParameterError
from alol.base.files import damaged, read_json, write_json
from alol.compute.batching import Batch, chunks
from alol.compute.launch import Machine
from alol.compute.logprob import prompt_states
from alol.compute.packed_models import packable
from alol.config.sections import Value
from alol.models.loading import not_finite

Bounds = tuple[float | None, float | None]


class Shape(TypedDict):
    """head.json."""

    width: int
    heads: int
    head: Literal["linear", "mlp"]
    bounds: Bounds


class ValueHead(nn.Module):
    """V(x) [B] in fp32 from prompt states [B, P, H] and their mask [B, P].

    With both bounds given the output is low + (high - low) sigmoid; linear where a bound is open.
    """

    def __init__(self, width: int, heads: int, dropout: float, kind: Literal["linear", "mlp"], bounds: Bounds) -> None:
        super().__init__()
        if width % heads:
            raise ParameterError("value.heads", f"is {heads}, which does not divide the model's width {width}")
        self.low, self.high = bounds
        self.query = nn.Parameter(torch.randn(width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.output: nn.Module = nn.Linear(width, 1)
        if kind == "mlp":
            self.output = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1))

    @property
    def bounded(self) -> bool:
        return self.low is not None and self.high is not None

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):  # 16 bits tell few values apart
            return self._forward(states.float(), mask)

    def _forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = self.dropout(states)
        query = self.query.expand(len(states), 1, -1)
        pooled, _ = self.attention(query, states, states, key_padding_mask=mask == 0, need_weights=False)
        raw = self.output(self.dropout(pooled[:, 0])).view(-1)
        return self.low + (self.high - self.low) * raw.sigmoid() if self.bounded else raw

    def start_at(self, mean: float, *, constant: bool = False) -> None:
        """Sets the last bias so that V starts near the mean reward; with `constant`, at it, for every prompt.

        The states of a pretrained model can be so large that a head with random last weights begins far from the mean,
        and few prompts do not bring it back.
        """
        last = self.output[-1] if isinstance(self.output, nn.Sequential) else self.output
        share = (mean - self.low) / (self.high - self.low) if self.bounded else None
        bias = mean if share is None else float(np.log(np.clip(share, 0.01, 0.99) / (1 - np.clip(share, 0.01, 0.99))))
        nn.init.constant_(last.bias, bias)
        if constant:
            nn.init.zeros_(last.weight)


@torch.no_grad()
def predict(head: ValueHead, states: Sequence[Tensor], batch_size: int) -> np.ndarray:
    """V(x) [N] in evaluation mode; `states` are on the CPU, the head may be elsewhere."""
    head.eval()
    device = head.query.device
    parts = [head(*stack(states[i : i + batch_size], device)) for i in range(0, len(states), batch_size)]
    return torch.cat(parts).double().cpu().numpy()


@torch.no_grad()
def states_of(model: nn.Module, prompts: Sequence[Sequence[int]], pad_id: int, machine: Machine) -> list[Tensor]:
    """The last hidden states of each prompt (token ids) that V(x) is made of: a list of [length, H] on the CPU.

    Prompts of a model that needs padding share a batch with those of their length alone: what pads them would round
    them, so that the same prompt had another V(x) in another batch.
    """
    states: list[Tensor] = [torch.empty(0)] * len(prompts)
    lengths = [len(prompt) for prompt in prompts]
    parts = chunks(lengths, machine.launch.micro_batch, machine.launch.tokens)
    if not packable(model):
        parts = [list(same) for part in parts for _, same in groupby(part, key=lambda i: lengths[i])]
    for rows in parts:
        batch = Batch([prompts[i] for i in rows], [[] for _ in rows], pad_id, machine.device)
        for i, row in zip(rows, prompt_states(model, batch), strict=True):
            states[i] = row.cpu().clone()
    return states


def save(head: ValueHead, folder: Path, settings: Value, epochs: int) -> None:
    """Writes the weights as safetensors, and in head.json what is needed to build the head again."""
    save_file(head.state_dict(), folder / "head.safetensors")
    shape = {"width": len(head.query), "heads": settings.heads, "head": settings.head, "bounds": [head.low, head.high]}
    write_json(folder / "head.json", {**shape, "epochs": epochs})


def load(folder: Path) -> ValueHead:
    """A saved head, in evaluation mode."""
    shape, file = read_json(folder / "head.json", Shape), folder / "head.safetensors"
    with faults.reading(lambda why: damaged(folder / "head.json", why)), torch.device("meta"):  # no memory yet
        head = ValueHead(shape["width"], shape["heads"], 0.0, shape["head"], shape["bounds"])
    with faults.reading(lambda why: damaged(file, why)):
        head.load_state_dict(load_file(file), assign=True)
    if broken := next(not_finite(head), None):
        raise damaged(file, f"{broken} holds numbers that are not finite")
    return head.eval()


def stack(states: Sequence[Tensor], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """States of B prompts, [length, H] each, padded on the right to [B, P, H], and their mask [B, P], on `device`."""
    stacked = nn.utils.rnn.pad_sequence(list(states), batch_first=True)
    lengths = torch.tensor([len(row) for row in states])
    return stacked.to(device), (torch.arange(stacked.shape[1]) < lengths[:, None]).long().to(device)
