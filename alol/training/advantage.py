"""Advantages of the training responses: A = R - V(x), beside the reference's token log-probabilities, computed once."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from alol.base.errors import InputError, ParameterError
from alol.base.work import Work
from alol.compute import launch
from alol.compute.batching import Batch, chunks
from alol.compute.launch import Machine
from alol.compute.logprob import response_logp, response_logp_and_prompt_states
from alol.compute.shards import Bar, Done, Pool
from alol.config.params import Params
from alol.config.sections import Reward
from alol.data import schema
from alol.data.parts import Parts, pieces
from alol.models import policies
from alol.models.policies import LoadedPolicy
from alol.models.tokens import Encoder
from alol.training import value_head
from alol.training.value_head import ValueHead, predict, stack, states_of


@dataclass(frozen=True)
class Models:
    """The reference, placed on its device, its value head and what they are used with."""

    policy: LoadedPolicy
    head: ValueHead
    encoder: Encoder
    machine: Machine

    @classmethod
    def load(cls, reference: Path, value: Path, params: Params) -> Models:
        """From the folders of the reference and of V(x)."""
        machine = Machine(launch.accelerator(params.launch), params.launch)
        policy, head = policies.load(reference), value_head.load(value).to(machine.device)
        launch.placed(policy.model, machine.accelerator, trained=False)
        return cls(policy, head, policies.encoder(policy, params.policy), machine)


def of_table(
    path: Path, pool: Pool[Models], params: Params, work: Work | None = None, *, trained: bool = True
) -> Iterator[dict[str, Any]]:
    """The advantage rows of an annotated table, piece by piece; `work` keeps those of a killed run.

    Of several processes the main one alone gets them. `trained`: whether a policy is trained on these rows; else
    `raw_reward`, which training alone reads, is the reward as it is.
    """
    columns = schema.scored(schema.RESPONSES, params.reward.weights)
    reward = params.reward if trained else dataclasses.replace(params.reward, raw="identity")
    found = pool.map(
        lambda: pieces(schema.read(path, columns), params.value.part_rows),
        partial(_measured, reward=reward),
        Parts(work, schema.ADVANTAGES),
        Bar(schema.count(path), "advantage", "response"),
    )
    return (row for _, piece in found for row in piece)


def compared(rows: Iterator[dict[str, Any]], path: Path, params: Params) -> Iterator[dict[str, Any]]:
    """`rows` with `ref_rewards`: R of the reference's sampled answers to the prompt, from their scored table at `path`.

    Raises InputError where a prompt has not as many as `generate.rollout.train_samples` says.
    """
    count, found = params.generate.rollout.train_samples, dict[str, list[float]]()
    for group in schema.read(path, schema.scored(schema.SAMPLES, params.reward.weights)):
        for row in group:
            own = found.setdefault(row["prompt_id"], [])
            own.append(schema.total_reward(row, params.reward.weights, params.reward.shift))
    for row in rows:
        own = found.get(row["prompt_id"], [])
        if len(own) != count:
            raise InputError(
                f"{path} has {len(own)} answers to prompt {row['prompt_id']}, not {count}; run `dvc repro`"
            )
        yield {**row, "ref_rewards": own}


def _measured(
    models: Models, start: int, rows: Sequence[dict[str, Any]], done: Done, *, reward: Reward
) -> list[dict[str, Any]]:
    with models.machine.accelerator.autocast():
        return advantages(models.policy.model, models.head, models.encoder, rows, reward, models.machine)


@torch.no_grad()
def advantages(
    model: nn.Module,
    head: ValueHead,
    encoder: Encoder,
    rows: Sequence[dict[str, Any]],
    reward: Reward,
    machine: Machine,
) -> list[dict[str, Any]]:
    """The rows of alol.data.schema.ADVANTAGES for annotated `rows`, in order.

    `model` is the reference policy and `head` its value head, both in evaluation mode.
    """
    prompts, responses = encoder.prompts(rows), encoder.responses([row["response"] for row in rows])
    logp, values = _measure(model, head, prompts, responses, encoder.tokenizer.pad_token_id, machine)
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
            "value": values[i],
            "advantage": rewards[i] - values[i],
        }
        for i, row in enumerate(rows)
    ]


def raw(value: float, scale: str, row: dict[str, Any]) -> float:
    """The reward on the scale that pro takes differences of: as it is, or ln(R / (1 - R)), the logit of a sigmoid."""
    if scale == "identity":
        return value
    if not 0 < value < 1:
        raise ParameterError(
            "reward.raw",
            f"is logit, but prompt {row['prompt_id']}, rank {row['rank']}, has the reward {value:g}, which is not "
            "between 0 and 1; set it to identity",
        )
    return math.log(value / (1 - value))


def _measure(
    model: nn.Module,
    head: ValueHead,
    prompts: list[list[int]],
    responses: list[list[int]],
    pad_id: int,
    machine: Machine,
) -> tuple[list[np.ndarray], list[float]]:
    """Computes the reference's log-probabilities of each response and V of its prompt.

    In fp32 in one forward pass. In 16 bits what follows a prompt rounds its states otherwise, so that V gets those
    that the head was fitted to, of the prompts alone. Responses to one prompt go into one batch, so that models that
    run without padding read the prompt once.
    """
    limits, device = machine.launch, machine.device
    members: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        members.setdefault(tuple(prompt), []).append(i)
    groups = list(members.values())
    lengths = [sum(len(prompts[i]) + len(responses[i]) for i in group) for group in groups]
    logp: list[Any] = [None] * len(prompts)
    values = [0.0] * len(prompts)
    alone = machine.accelerator.mixed_precision != "no"
    if alone:
        states = states_of(model, list(members), pad_id, machine)
        for group, value in zip(groups, predict(head, states, limits.micro_batch).tolist(), strict=True):
            for i in group:
                values[i] = value
    for part in chunks(lengths, limits.micro_batch, limits.tokens):
        rows = [i for k in part for i in groups[k]]
        batch = Batch([prompts[i] for i in rows], [responses[i] for i in rows], pad_id, device)
        if alone:
            token_logp = response_logp(model, batch)
        else:
            token_logp, states = response_logp_and_prompt_states(model, batch)
            firsts = itertools.accumulate((len(groups[k]) for k in part[:-1]), initial=0)
            of_groups = head(*stack([states[n] for n in firsts], device)).tolist()
            for k, value in zip(part, of_groups, strict=True):
                for i in groups[k]:
                    values[i] = value
        for i, row in zip(rows, token_logp.cpu().numpy(), strict=True):
            logp[i] = row[: len(responses[i])]
    return logp, values
