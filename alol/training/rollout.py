"""A policy's responses to a split's prompts, unscored, one or several to each: the rows of rollout and evaluate."""

from __future__ import annotations

import dataclasses
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
from alol.config.sections import Generate
from alol.data import schema
from alol.data.parts import Parts, pieces
from alol.models import policies
from alol.models.policies import LoadedPolicy

IDS = schema.ADVANTAGES.field("response_ids")
RESPONSE = pa.schema([schema.ROLLOUTS.field("response"), IDS])


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
    settings: Generate | None = None,
    ids: bool = False,
) -> list[dict[str, Any]]:
    """Rows of alol.data.schema.ROLLOUTS: the policy's response to each row's prompt, in order.

    With `ids` they have `response_ids` beside: the tokens that the policy chose, which its text does not always give.
    In the main process; in the others, which answer a part of the prompts into `work`, none. `settings` stand in for
    those of `params`.
    """
    settings = settings or params.generate
    length = settings.max_new_tokens
    policies.check_context(policy.model, params.policy.max_prompt, length, "generate.max_new_tokens")
    placed(policy.model, main, trained=False)
    encoder = policies.encoder(policy, params.policy)
    prompts = encoder.prompts(rows)
    parts = Parts(work, RESPONSE)
    shown = main.is_main_process
    with tqdm(total=len(rows), initial=parts.rows, desc=name, unit="prompt", leave=False, disable=not shown) as bar:

        def answer(start: int, numbers: Sequence[int]) -> list[dict[str, Any]]:
            found = generate(
                policy.model, policy.tokenizer, [prompts[i] for i in numbers], settings, params.launch,
                seed=(seed * 1_000_003 + start) % 2**31, main=main, name=name, done=bar.update, ends=encoder.ends,
            )  # fmt: skip
            return [{"response": text, IDS.name: tokens} for text, tokens in found]

        columns, given = {*schema.ROLLOUTS.names} - {"response"}, RESPONSE.names if ids else ["response"]
        return [
            {
                **{column: value for column, value in rows[i].items() if column in columns},
                **{column: found[column] for column in given},
            }
            for piece, answers in parts.through(lambda: pieces([range(len(rows))], settings.part_rows), answer, main)
            for i, found in zip(piece, answers, strict=True)
        ]


def samples(
    policy: LoadedPolicy,
    rows: list[dict[str, Any]],
    params: Params,
    main: Accelerator,
    *,
    count: int,
    name: str,
    work: Work | None = None,
) -> list[dict[str, Any]]:
    """Rows of alol.data.schema.SAMPLES: `count` sampled responses to each row's prompt, in the main process.

    Always sampled, with the temperature and top_p of `generate`, whatever it says of greedy or beam search. Response
    number i is drawn with the seed of `generate` plus i, so that more of them leave the first ones as they are.
    """
    settings = dataclasses.replace(params.generate, sample=True, beams=1)
    return [
        {**row, "sample": number}
        for number in range(count)
        for row in rollouts(
            policy, rows, params, main, seed=settings.seed + number, name=f"{name}, sample {number + 1} of {count}",
            work=work.of(str(number)) if work is not None else None, settings=settings,
        )
    ]  # fmt: skip
