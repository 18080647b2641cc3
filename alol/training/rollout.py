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
from alol.compute.generate import Decoding, generate
from alol.compute.launch import Machine, placed
from alol.config.params import Params
from alol.data import schema
from alol.data.parts import Parts, pieces
from alol.models import policies
from alol.models.policies import LoadedPolicy

IDS = schema.ADVANTAGES.field("response_ids")
RESPONSE = pa.schema([schema.ROLLOUTS.field("response"), IDS])


def prompt_rows(path: Path) -> list[dict[str, Any]]:
    """One row a prompt: the rank-0 rows of a clean or annotated table."""
    return [row for group in schema.read(path, schema.RESPONSES) for row in group if row["rank"] == 0]


def rollouts(
    policy: LoadedPolicy,
    rows: list[dict[str, Any]],
    params: Params,
    accelerator: Accelerator,
    decoding: Decoding,
    work: Work | None = None,
) -> list[dict[str, Any]]:
    """Answers the prompt of each row with the policy; returns rows of alol.data.schema.ROLLOUTS, in order."""
    return rollouts_and_ids(policy, rows, params, accelerator, decoding, work)[0]


def rollouts_and_ids(
    policy: LoadedPolicy,
    rows: list[dict[str, Any]],
    params: Params,
    accelerator: Accelerator,
    decoding: Decoding,
    work: Work | None = None,
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Answers as `rollouts` does, and returns the token ids that the policy chose too: its text may encode to others.

    Both lists are empty in all processes but the main one: the others answer their share of the prompts into `work`.
    The seed of each piece of the prompts is made from that of `decoding`; the encoder's ends are added to its own.
    """
    settings = decoding.settings
    length = settings.max_new_tokens
    policies.check_context(policy.model, params.policy.max_prompt, length, "generate.max_new_tokens")
    placed(policy.model, accelerator, trained=False)
    encoder = policies.encoder(policy, params.policy)
    prompts = encoder.prompts(rows)
    parts, machine = Parts(work, RESPONSE), Machine(accelerator, params.launch)
    shown = accelerator.is_main_process
    with tqdm(
        total=len(rows), initial=parts.rows, desc=decoding.name, unit="prompt", leave=False, disable=not shown
    ) as bar:

        def answer(start: int, numbers: Sequence[int]) -> list[dict[str, Any]]:
            seed = (decoding.seed * 1_000_003 + start) % 2**31
            asked, own = [prompts[i] for i in numbers], dataclasses.replace(decoding, seed=seed, ends=encoder.ends)
            answers = generate(policy.model, policy.tokenizer, asked, own, machine, done=bar.update)
            return [{"response": text, IDS.name: ids} for text, ids in answers]

        columns = {*schema.ROLLOUTS.names} - {"response"}
        answered, ids = [], []
        for piece, answers in parts.through(
            lambda: pieces([range(len(rows))], settings.part_rows), answer, accelerator
        ):
            for i, one in zip(piece, answers, strict=True):
                kept = {column: value for column, value in rows[i].items() if column in columns}
                answered.append({**kept, "response": one["response"]})
                ids.append(one[IDS.name])
        return answered, ids


def samples(
    policy: LoadedPolicy,
    rows: list[dict[str, Any]],
    params: Params,
    accelerator: Accelerator,
    count: int,
    work: Work | None = None,
) -> list[dict[str, Any]]:
    """Samples `count` responses to the prompt of each row; returns rows of alol.data.schema.SAMPLES.

    They are sampled with the temperature and top_p of `generate`, even where it says greedy or beam search. Response
    number i is drawn with the seed of `generate` plus i, so that a larger `count` leaves the first responses as they
    are. The list is empty in all processes but the main one.
    """
    settings = dataclasses.replace(params.generate, sample=True, beams=1)
    result = []
    for number in range(count):
        decoding = Decoding(settings, settings.seed + number, name=f"sample {number + 1} of {count}")
        own = work.of(str(number)) if work is not None else None
        result += [{**row, "sample": number} for row in rollouts(policy, rows, params, accelerator, decoding, own)]
    return result
