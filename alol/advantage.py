"""Advantages of the training responses: A = R - V(x), beside the reference's token log-probabilities, computed once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from alol import schema
from alol.batching import chunks, collate
from alol.errors import InputError
from alol.logprob import response_logp
from alol.models import LoadedPolicy
from alol.params import Launch, Params, Reward
from alol.tokens import Encoder
from alol.value import ValueHead, prompt_states


def of_table(
    path: Path, policy: LoadedPolicy, head: ValueHead, params: Params, main: Accelerator
) -> Iterator[dict[str, Any]]:
    """The advantage rows of an annotated training table, row group by row group."""
    policy.model.to(main.device)
    encoder = Encoder(policy.tokenizer, params.policy)
    with tqdm(total=schema.count(path), desc="advantage", unit="response") as bar:
        for rows in schema.read(path):
            with main.autocast():
                yield from advantages(policy.model, head, encoder, rows, params.reward, params.launch, main.device)
            bar.update(len(rows))


@torch.no_grad()
def advantages(
    model: nn.Module,
    head: ValueHead,
    encoder: Encoder,
    rows: list[dict[str, Any]],
    reward: Reward,
    launch: Launch,
    device: torch.device | str,
) -> list[dict[str, Any]]:
    """The rows of alol.schema.ADVANTAGES for annotated `rows`, in order.

    `model` is the reference policy and `head` its value head, both in evaluation mode. V(x) is computed once a prompt.
    """
    prompts, responses = encoder.prompts(rows), encoder.responses([row["response"] for row in rows])
    pad_id = encoder.tokenizer.pad_token_id
    first = {row["prompt_id"]: i for i, row in reversed(list(enumerate(rows)))}
    distinct = [prompts[i] for i in first.values()]
    values = dict(zip(first, _values(model, head, distinct, pad_id, launch, device), strict=True))
    logp = _logp(model, prompts, responses, pad_id, launch, device)
    rewards = [schema.total_reward(row, reward.weights, reward.shift) for row in rows]
    return [
        {
            "prompt_id": row["prompt_id"],
            "rank": row["rank"],
            "prompt_ids": prompts[i],
            "response_ids": responses[i],
            "ref_logp": logp[i],
            "reward": rewards[i],
            "raw_reward": raw(rewards[i], reward.raw, row),
            "value": values[row["prompt_id"]],
            "advantage": rewards[i] - values[row["prompt_id"]],
        }
        for i, row in enumerate(rows)
    ]


def raw(value: float, scale: str, row: dict[str, Any]) -> float:
    """The reward on the scale that pro takes differences of: as it is, or ln(R / (1 - R)), the logit of a sigmoid."""
    if scale == "identity":
        return value
    if not 0 < value < 1:
        raise InputError(
            f"params.yaml: reward.raw is logit, but prompt {row['prompt_id']}, rank {row['rank']}, has the reward "
            f"{value:g}, which is not between 0 and 1; set reward.raw: identity"
        )
    return math.log(value / (1 - value))


def _values(
    model: nn.Module, head: ValueHead, prompts: list[list[int]], pad_id: int, launch: Launch, device: torch.device | str
) -> list[float]:
    values = np.empty(len(prompts))
    for chosen in chunks([len(prompt) for prompt in prompts], launch.micro_batch, launch.tokens):
        batch = collate([prompts[i] for i in chosen], [[] for _ in chosen], pad_id, device)
        values[chosen] = head(prompt_states(model, batch), batch.attention_mask).cpu().numpy()
    return values.tolist()


def _logp(
    model: nn.Module,
    prompts: list[list[int]],
    responses: list[list[int]],
    pad_id: int,
    launch: Launch,
    device: torch.device | str,
) -> list[Tensor]:
    result: list[Any] = [None] * len(prompts)
    lengths = [len(x) + len(y) for x, y in zip(prompts, responses, strict=True)]
    for chosen in chunks(lengths, launch.micro_batch, launch.tokens):
        batch = collate([prompts[i] for i in chosen], [responses[i] for i in chosen], pad_id, device)
        for i, row in zip(chosen, response_logp(model, batch).cpu().numpy(), strict=True):
            result[i] = row[: len(responses[i])]
    return result
