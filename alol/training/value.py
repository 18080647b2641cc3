"""The value V(x) of the reference policy: a small head on its frozen prompt states, fitted to its own rewards.

The head is one learned query that attends over the prompt's last hidden states, then a linear layer (or an MLP), ending
between the reward's bounds. Padding is masked, so V does not depend on the batch; after fitting it is used in
evaluation mode only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from typing_extensions import TypedDict

from alol.base import faults
from alol.base.errors import ParameterError
from alol.base.files import damaged, read_json, write_json
from alol.compute.batching import Batch, chunks
from alol.compute.logprob import prompt_states
from alol.config.params import Params
from alol.config.sections import Launch, Value
from alol.data import schema
from alol.models.loading import not_finite
from alol.models.policies import LoadedPolicy
from alol.models.tokens import Encoder
from alol.rewards import bounds

Bounds = tuple[float | None, float | None]


class Shape(TypedDict):
    """head.json."""

    width: int
    heads: int
    head: Literal["linear", "mlp"]
    bounds: Bounds


class ValueHead(nn.Module):
    """V(x) [B] from prompt states [B, P, H] and their mask [B, P].

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
        states = self.dropout(states)
        query = self.query.expand(len(states), 1, -1)
        pooled, _ = self.attention(query, states, states, key_padding_mask=mask == 0, need_weights=False)
        raw = self.output(self.dropout(pooled[:, 0])).view(-1)
        return self.low + (self.high - self.low) * raw.sigmoid() if self.bounded else raw

    def start_at(self, mean: float) -> None:
        """Sets the last bias so that V starts near the mean reward: the head then begins as the best constant."""
        last = self.output[-1] if isinstance(self.output, nn.Sequential) else self.output
        share = (mean - self.low) / (self.high - self.low) if self.bounded else None
        bias = mean if share is None else float(np.log(np.clip(share, 0.01, 0.99) / (1 - np.clip(share, 0.01, 0.99))))
        nn.init.constant_(last.bias, bias)


@dataclass(frozen=True)
class Fit:
    """A fitted head and its held-out error: `values` [N] are predictions for prompts that the head did not see."""

    head: ValueHead
    epochs: int
    mse: float
    mse_constant: float
    values: np.ndarray
    rewards: np.ndarray
    prompt_ids: list[str]


def from_rollouts(policy: LoadedPolicy, path: Path, params: Params, device: torch.device | str) -> Fit:
    """Fits V(x) to the scored rollouts of the reference `policy` on the validation prompts."""
    rows = schema.rows(path, schema.scored(schema.ROLLOUTS, params.reward.weights))
    rewards = np.array([schema.total_reward(row, params.reward.weights, params.reward.shift) for row in rows])
    prompts = Encoder(policy.tokenizer, params.policy).prompts(rows)
    model = policy.model.to(device)
    states = collect_states(model, prompts, policy.tokenizer.pad_token_id, params.launch, device)
    limits = bounds(params.rewards, params.reward.weights, params.reward.shift)
    return fit(states, rewards, params.value, limits, [row["prompt_id"] for row in rows])


@torch.no_grad()
def collect_states(
    model: nn.Module, prompts: Sequence[Sequence[int]], pad_id: int, launch: Launch, device: torch.device | str
) -> list[Tensor]:
    """Prompt states of each prompt (token ids): a list of [length, H] on the CPU. Each prompt is run once."""
    states: list[Tensor] = [torch.empty(0)] * len(prompts)
    parts = chunks([len(prompt) for prompt in prompts], launch.micro_batch, launch.tokens)
    for chosen in tqdm(parts, desc="prompt states", unit="batch", leave=False):
        batch = Batch([prompts[i] for i in chosen], [[] for _ in chosen], pad_id, device)
        for i, row in zip(chosen, prompt_states(model, batch), strict=True):
            states[i] = row.cpu().clone()
    return states


def fit(states: Sequence[Tensor], rewards: np.ndarray, settings: Value, bounds: Bounds, prompt_ids: list[str]) -> Fit:
    """Fits the head to the rewards [N] of the reference's own responses (mean squared error).

    The number of epochs comes from cross-validation: each fold's error is measured after every epoch (and before the
    first) by a head that did not see it. Each fold's reported error is at the number of epochs that the other folds
    choose, so it is held out from that choice too; the final head trains on all prompts.
    Raises InputError when there are fewer prompts than folds.
    """
    count, folds = len(states), settings.folds
    if count < 2 * folds:
        raise ParameterError(
            "value.folds", f"is {folds}, but the {count} validation prompts must give 2 a fold; lower it"
        )
    fold = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed)).numpy() % folds
    predictions = np.empty((settings.epochs + 1, count))
    constant = np.empty(count)
    for k in tqdm(range(folds), desc="value folds", unit="fold", leave=False):
        seen, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        constant[held] = rewards[seen].mean()
        head = _new_head(states, rewards[seen], settings, bounds)
        predictions[0, held] = predict(head, [states[i] for i in held], settings.batch_size)
        for epoch in _epochs(head, [states[i] for i in seen], rewards[seen], settings, settings.epochs):
            predictions[epoch, held] = predict(head, [states[i] for i in held], settings.batch_size)
    errors = (predictions - rewards) ** 2  # [epochs + 1, N]
    curve = np.stack([errors[:, fold == k].sum(1) for k in range(folds)])  # [folds, epochs + 1]
    values = np.empty(count)
    for k in range(folds):
        chosen = int(np.delete(curve, k, axis=0).sum(0).argmin())
        values[fold == k] = predictions[chosen, fold == k]
    epochs = int(curve.sum(0).argmin())
    head = _new_head(states, rewards, settings, bounds)
    for _ in _epochs(head, list(states), rewards, settings, epochs):
        pass
    mse, mse_constant = ((values - rewards) ** 2).mean(), ((constant - rewards) ** 2).mean()
    return Fit(head.eval(), epochs, float(mse), float(mse_constant), values, rewards, prompt_ids)


@torch.no_grad()
def predict(head: ValueHead, states: Sequence[Tensor], batch_size: int) -> np.ndarray:
    """V(x) [N] in evaluation mode."""
    head.eval()
    parts = [head(*stack(states[i : i + batch_size])) for i in range(0, len(states), batch_size)]
    return torch.cat(parts).double().numpy()


def save(result: Fit, folder: Path, settings: Value) -> None:
    """The head as safetensors and what is needed to build it again."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(result.head.state_dict(), folder / "head.safetensors")
    head = result.head
    shape = {"width": len(head.query), "heads": settings.heads, "head": settings.head, "bounds": [head.low, head.high]}
    write_json(folder / "head.json", {**shape, "epochs": result.epochs})
    heldout = {"prompt_id": result.prompt_ids, "value": result.values.tolist(), "reward": result.rewards.tolist()}
    write_json(folder / "heldout.json", heldout)


def save_error(result: Fit, path: Path) -> None:
    """The held-out error, beside that of the best constant."""
    errors = {"value_mse": result.mse, "value_mse_constant": result.mse_constant}
    write_json(path, {**errors, "rollouts": len(result.rewards), "epochs": result.epochs})


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


def _new_head(states: Sequence[Tensor], rewards: np.ndarray, settings: Value, bounds: Bounds) -> ValueHead:
    torch.manual_seed(settings.seed)
    head = ValueHead(states[0].shape[-1], settings.heads, settings.dropout, settings.head, bounds)
    head.start_at(float(rewards.mean()))
    return head


def _epochs(head: ValueHead, states: list[Tensor], rewards: np.ndarray, settings: Value, epochs: int):
    """Trains for one epoch at a time, yielding the number of epochs done."""
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    target = torch.as_tensor(rewards, dtype=torch.float32)
    for epoch in range(1, epochs + 1):
        head.train()
        order = torch.randperm(len(states), generator=generator)
        for chosen in order.split(settings.batch_size):
            loss = ((head(*stack([states[i] for i in chosen])) - target[chosen]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield epoch


def stack(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """States of B prompts, [length, H] each, padded on the right to [B, P, H], and their mask [B, P]."""
    stacked = nn.utils.rnn.pad_sequence(list(states), batch_first=True)
    lengths = torch.tensor([len(row) for row in states])
    return stacked, (torch.arange(stacked.shape[1]) < lengths[:, None]).long()
