"""A policy's responses to a split's prompts, unscored, one or several to each: the rows of rollout and evaluate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from accelerate import Accelerator

from alol.base.work import Work
from alol.compute import launch
from alol.compute.generate import Decoding, generate
from alol.compute.launch import Machine
from alol.compute.shards import Bar, Done, Pool
from alol.config.params import Params
from alol.data import schema
from alol.data.parts import Parts, pieces
from alol.models import policies
from alol.models.policies import LoadedPolicy
from alol.models.tokens import Encoder

IDS = schema.ADVANTAGES.field("response_ids")
RESPONSE = pa.schema([schema.ROLLOUTS.field("response"), IDS])


@dataclass(frozen=True)
class Answerer:
    """A policy, placed on its device, and what it answers prompts with."""

    policy: LoadedPolicy
    encoder: Encoder
    machine: Machine

    @classmethod
    def load(cls, folder: Path, params: Params) -> Answerer:
        """From the folder of a reference or a policy."""
        return cls.of(policies.load(folder), params, launch.accelerator(params.launch))

    @classmethod
    def of(cls, policy: LoadedPolicy, params: Params, accelerator: Accelerator) -> Answerer:
        """A policy that is loaded; it is moved to the device, and can then be run under autocast only."""
        length = params.generate.max_new_tokens
        policies.check_context(policy.model, params.policy.max_prompt, length, "generate.max_new_tokens")
        launch.placed(policy.model, accelerator, trained=False)
        return cls(policy, policies.encoder(policy, params.policy), Machine(accelerator, params.launch))


def prompt_rows(path: Path) -> list[dict[str, Any]]:
    """One row a prompt: the rank-0 rows of a clean or annotated table."""
    return [row for group in schema.read(path, schema.RESPONSES) for row in group if row["rank"] == 0]


def rollouts(
    pool: Pool[Answerer], rows: list[dict[str, Any]], decoding: Decoding, work: Work | None = None
) -> list[dict[str, Any]]:
    """Answers the prompt of each row with the policy; returns rows of alol.data.schema.ROLLOUTS, in order.

    The seed of each piece of the prompts is made from that of `decoding`; the encoder's ends are added to its own. The
    list is empty in all processes but the main one.
    """
    return [
        {name: value for name, value in row.items() if name != IDS.name}
        for row in _answered(pool, rows, decoding, work)
    ]


def rollouts_and_ids(
    pool: Pool[Answerer], rows: list[dict[str, Any]], decoding: Decoding, work: Work | None = None
) -> list[dict[str, Any]]:
    """As `rollouts`, with `response_ids`, what the policy chose: its text may encode to others. In every process."""
    return _answered(pool, rows, decoding, work, everywhere=True)


def _answered(
    pool: Pool[Answerer],
    rows: list[dict[str, Any]],
    decoding: Decoding,
    work: Work | None,
    everywhere: bool = False,
) -> list[dict[str, Any]]:
    found = pool.map(
        lambda: pieces([rows], decoding.settings.part_rows),
        partial(_answer, decoding=decoding),
        Parts(work, RESPONSE),
        Bar(len(rows), decoding.name, "prompt", leave=False),
        everywhere=everywhere,
    )
    columns = {*schema.ROLLOUTS.names} - {"response"}
    return [
        {**{column: value for column, value in row.items() if column in columns}, **answer}
        for piece, answers in found
        for row, answer in zip(piece, answers, strict=True)
    ]


def _answer(
    by: Answerer, start: int, rows: Sequence[dict[str, Any]], done: Done, *, decoding: Decoding
) -> list[dict[str, Any]]:
    seed = (decoding.seed * 1_000_003 + start) % 2**31
    own = dataclasses.replace(decoding, seed=seed, ends=by.encoder.ends)
    answers = generate(by.policy.model, by.policy.tokenizer, by.encoder.prompts(rows), own, by.machine, done=done)
    return [{"response": text, IDS.name: ids} for text, ids in answers]


def samples(
    pool: Pool[Answerer], rows: list[dict[str, Any]], params: Params, count: int, work: Work | None = None
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
        result += [{**row, "sample": number} for row in rollouts(pool, rows, decoding, own)]
    return result
