"""A policy's responses to a split's prompts, unscored: the rows of rollout and evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from accelerate import Accelerator
from tqdm import tqdm

from alol.base.work import Work
from alol.compute.generate import generate
from alol.compute.launch import placed
from alol.config.params import Params
from alol.data import schema
from alol.data.parts import Parts, pieces
from alol.models import policies
from alol.models.policies import LoadedPolicy
from alol.models.tokens import Encoder

RESPONSE = pa.schema([schema.ROLLOUTS.field("response")])


def prompt_rows(path: Path) -> list[dict[str, Any]]:
    """One row a prompt: the rank-0 rows of a clean or annotated table."""
    return [row for row in schema.rows(path, schema.RESPONSES) if row["rank"] == 0]


def rollouts(
    policy: LoadedPolicy,
    rows: list[dict[str, Any]],
    params: Params,
    main: Accelerator,
    *,
    seed: int,
    name: str,
    work: Work | None = None,
) -> list[dict[str, Any]]:
    """Rows of alol.data.schema.ROLLOUTS: the policy's response to each row's prompt, in order.

    In the main process; in the others, which answer a part of the prompts into `work`, none.
    """
    settings, length = params.generate, params.generate.max_new_tokens
    policies.check_context(policy.model, params.policy.max_prompt, length, "generate.max_new_tokens")
    placed(policy.model, main, trained=False)
    encoder = Encoder(policy.tokenizer, params.policy)
    ids = encoder.prompts(rows)
    parts = Parts(work, RESPONSE)
    shown = main.is_main_process
    with tqdm(total=len(rows), initial=parts.rows, desc=name, unit="prompt", leave=False, disable=not shown) as bar:

        def answer(start: int, numbers: Sequence[int]) -> list[dict[str, Any]]:
            texts = generate(
                policy.model, policy.tokenizer, [ids[i] for i in numbers], settings, params.launch,
                seed=(seed * 1_000_003 + start) % 2**31, main=main, name=name, done=bar.update, ends=encoder.ends,
            )  # fmt: skip
            return [{"response": text} for text in texts]

        columns = {*schema.ROLLOUTS.names} - {"response"}
        return [
            {**{column: value for column, value in rows[i].items() if column in columns}, **found}
            for piece, answers in parts.through(lambda: pieces([range(len(rows))], settings.part_rows), answer, main)
            for i, found in zip(piece, answers, strict=True)
        ]
