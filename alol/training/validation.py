"""The rewards of a policy's responses: scored tables, and the validation score while training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import nn

from alol.compute.generate import generate
from alol.compute.launch import from_main
from alol.config.sections import Generate, Launch, Reward
from alol.data import schema
from alol.models.tokens import Encoder
from alol.rewards import Rewards


def scored_rows(rows: list[dict[str, Any]], rewards: Rewards) -> list[dict[str, Any]]:
    """The rows with one `reward_<component>` column more per component."""
    scores = rewards.score([row["prompt"] for row in rows], [row["response"] for row in rows], schema.contexts(rows))
    return [{**row, **{f"reward_{name}": float(scores[name][i]) for name in scores}} for i, row in enumerate(rows)]


def success(rows: list[dict[str, Any]], measure: str, reward: Reward) -> float:
    """The mean of the measure that checkpoints are chosen by: `reward` (the total) or a `reward_<component>` column."""
    return float(np.mean([schema.score(row, measure, reward.weights, reward.shift) for row in rows]))


@dataclass(frozen=True)
class Validation:
    """Scores a policy in training on the validation prompts: call it to get the mean of the success measure.

    `scored` are the rows of the last call, in the main process.
    """

    model: nn.Module
    encoder: Encoder
    rows: list[dict[str, Any]]
    ids: list[list[int]]
    rewards: Rewards | None  # in the main process alone
    reward: Reward
    measure: str
    settings: Generate
    launch: Launch
    seed: int
    main: Accelerator
    scored: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self) -> float:
        answers = generate(
            self.model, self.encoder.tokenizer, self.ids, self.settings, self.launch,
            seed=self.seed, main=self.main, name="validate", ends=self.encoder.ends,
        )  # fmt: skip
        score = None
        if self.rewards is not None:
            rows = [{**row, "response": text} for row, (text, _) in zip(self.rows, answers, strict=True)]
            self.scored[:] = scored_rows(rows, self.rewards)
            score = success(self.scored, self.measure, self.reward)
        return float(from_main(score, self.main))
