"""How far a policy is from the reference: the log-ratio of both on the policy's own answers, an estimate of their KL.

For sampled answers its mean over answers estimates KL(pi || pi_ref); greedy ones say the same of where greedy decoding
goes. It is taken of the tokens that the policy chose: those of the answer's text may be others, and unlikely ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alol.base.work import Work
from alol.compute.batching import Batch, chunks
from alol.compute.logprob import response_logp
from alol.compute.shards import Bar, Done, Pool
from alol.config.params import Params
from alol.data import schema
from alol.data.parts import Parts, pieces
from alol.models import policies, trainable
from alol.models.policies import LoadedPolicy
from alol.training.rollout import IDS, Answerer


@dataclass(frozen=True)
class Compared(Answerer):
    """A policy that answers, and the reference that its answers are then compared with, in one folder each.

    The reference is loaded when it is first asked for; of an adapter's base there is one copy.
    """

    reference: Path

    @classmethod
    def load(cls, folder: Path, reference: Path, params: Params) -> Compared:
        return cls(**vars(Answerer.load(folder, params)), reference=reference)

    @cached_property
    def of_reference(self) -> Callable[[Batch], Tensor]:
        """Computes the reference's log-probabilities [B, T]."""
        return _reference(self.policy, self.reference, self.machine.device)


def log_ratios(
    pool: Pool[Compared], rows: Sequence[dict[str, Any]], part_rows: int, work: Work | None = None
) -> list[dict[str, Any]]:
    """Rows of alol.data.schema.LOG_RATIOS, one for each of the prompts `rows`, whose `response_ids` are the answers.

    `part_rows` answers are measured together. The list is empty in all processes but the main one.
    """
    bar = Bar(len(rows), "log-ratios", "answer", leave=False)
    found = pool.map(lambda: pieces([rows], part_rows), _ratios, Parts(work, schema.LOG_RATIOS), bar)
    return [row for _, measured in found for row in measured]


def logged(pool: Pool[Compared], path: Path, part_rows: int, work: Work | None = None) -> list[dict[str, Any]]:
    """Rows of alol.data.schema.LOG_RATIOS of the responses in a table of alol.data.schema.ADVANTAGES.

    The reference's log-probabilities are those of the table. The list is empty in all processes but the main one.
    """
    bar = Bar(schema.count(path), "logged", "response", leave=False)
    columns = ["prompt_id", "prompt_ids", "response_ids", "ref_logp"]
    parts = Parts(work, schema.LOG_RATIOS)
    found = pool.map(lambda: pieces(schema.read(path, columns), part_rows), _logged_ratios, parts, bar)
    return [row for _, measured in found for row in measured]


def _logged_ratios(models: Compared, start: int, rows: Sequence[dict[str, Any]], done: Done) -> list[dict[str, Any]]:
    sums = _sums(models, [row["prompt_ids"] for row in rows], [row["response_ids"] for row in rows])
    return [
        {
            "prompt_id": row["prompt_id"],
            "tokens": len(row["response_ids"]),
            "log_ratio": total - math.fsum(row["ref_logp"]),
        }
        for row, total in zip(rows, sums, strict=True)
    ]


def _ratios(models: Compared, start: int, rows: Sequence[dict[str, Any]], done: Done) -> list[dict[str, Any]]:
    responses = [row[IDS.name] for row in rows]
    sums = _sums(models, models.encoder.prompts(rows), responses, of_reference=models.of_reference)
    return [
        {"prompt_id": row["prompt_id"], "tokens": len(response), "log_ratio": value}
        for row, response, value in zip(rows, responses, sums, strict=True)
    ]


def _sums(
    models: Compared,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    of_reference: Callable[[Batch], Tensor] | None = None,
) -> list[float]:
    """The policy's summed log-probability of each response; less the reference's, where that is given."""
    launch, accelerator = models.machine.launch, models.machine.accelerator
    sums: list[Any] = [None] * len(prompts)
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    for part in chunks(lengths, launch.micro_batch, launch.tokens):
        batch = Batch(
            [prompts[i] for i in part],
            [responses[i] for i in part],
            models.encoder.tokenizer.pad_token_id,
            models.machine.device,
        )
        with accelerator.autocast(), torch.no_grad():
            logp = response_logp(models.policy.model, batch).double()
            if of_reference is not None:
                logp = logp - of_reference(batch).double()
        for i, value in zip(part, logp.sum(-1).tolist(), strict=True):
            sums[i] = value
    return sums


def _reference(policy: LoadedPolicy, folder: Path, device: torch.device) -> Callable[[Batch], Tensor]:
    """A function that computes them with the policy's base, or with a second model."""
    if policy.pointer["base"] is not None:
        return trainable.frozen_logp(policy, folder)
    model = policies.load(folder).model.to(device)
    return lambda batch: response_logp(model, batch)
