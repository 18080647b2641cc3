"""A policy's responses to a split's prompts, unscored: the rows of rollout and evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from alol.compute.generate import generate
from alol.config.params import Params
from alol.data import schema
from alol.models import policies
from alol.models.policies import LoadedPolicy
from alol.models.tokens import Encoder


def prompt_rows(path: Path) -> list[dict[str, Any]]:
    """One row a prompt: the rank-0 rows of a clean or annotated table."""
    return [row for row in schema.rows(path, schema.RESPONSES) if row["rank"] == 0]


def rollouts(
    policy: LoadedPolicy, rows: list[dict[str, Any]], params: Params, main: Accelerator, *, seed: int, name: str
) -> list[dict[str, Any]]:
    """Rows of alol.data.schema.ROLLOUTS: the policy's response to each row's prompt, in order."""
    length = params.generate.max_new_tokens
    policies.check_context(policy.model, params.policy.max_prompt, length, "generate.max_new_tokens")
    policy.model.to(main.device)
    ids = Encoder(policy.tokenizer, params.policy).prompts(rows)
    texts = generate(
        policy.model, policy.tokenizer, ids, params.generate, params.launch, seed=seed, main=main, name=name
    )
    columns = [column for column in schema.ROLLOUTS.names if column != "response"]
    return [
        {**{column: row[column] for column in columns}, "response": text} for row, text in zip(rows, texts, strict=True)
    ]
