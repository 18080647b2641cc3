"""The rewards of a policy's responses: scored tables, and the validation score while training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alol.compute.generate import Decoding, generate
from alol.compute.launch import Machine, from_main
from alol.config.sections import Reward
from alol.data import schema
from alol.models.policies import LoadedPolicy
from alol.rewards import Rewards


def scored_rows(rows: list[dict[str, Any]], rewards: Rewards) -> list[dict[str, Any]]:
    """The rows with one `reward_<component>` column more per component."""
    scores = rewards.score([row["prompt"] for row in rows], [row["response"] for row in rows], schema.contexts(rows))
    return [{**row, **{f"reward_{name}": float(scores[name][i]) for name in scores}} for i, row in enumerate(rows)]


def success(rows: list[dict[str, Any]], measure: str, reward: Reward) -> float:
    """The mean of the measure that checkpoints are chosen by: `reward` (the total) or a `reward_<component>` column."""
    return float(np.mean([schema.score(row, measure, reward.weights, reward.shift) for row in rows]))


@dataclass(frozen=True)
class Scorer:
    """Scores responses with the components `rewards`, weighed by `reward`, and takes the mean of `measure`."""

    rewards: Rewards | None  # None in all processes but the main one
    reward: Reward
    measure: str


@dataclass(frozen=True)
class Validation:
    """Scores a policy in training on the validation prompts: call it to get the mean of the success measure.

    `prompts` are the token ids of the prompts of `rows`. `scored` holds the rows of the last call, in the main process.
    """

    policy: LoadedPolicy
    rows: list[dict[str, Any]]
    prompts: list[list[int]]
    scorer: Scorer
    decoding: Decoding
    machine: Machine
    scored: list[dict[str, Any]] = field(default_factory=list, init=False)

    def __call__(self) -> float:
        answers = generate(self.policy.model, self.policy.tokenizer, self.prompts, self.decoding, self.machine)
        score = None
        if self.scorer.rewards is not None:
            rows = [{**row, "response": text} for row, (text, _) in zip(self.rows, answers, strict=True)]
            self.scored[:] = scored_rows(rows, self.scorer.rewards)
            score = success(self.scored, self.scorer.measure, self.scorer.reward)
        return float(from_main(score, self.machine.accelerator))
