"""How far a policy is from the reference: the log-ratio of both on the policy's own answers, an estimate of their KL.

For sampled answers its mean over answers estimates KL(pi || pi_ref); greedy ones say the same of where greedy decoding
goes. It is taken of the tokens that the policy chose: those of the answer's text may be others, and unlikely ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from alol.base.work import Work
from alol.compute.batching import Batch, chunks
from alol.compute.logprob import response_logp
from alol.config.params import Params
from alol.data import schema
from alol.data.parts import Parts, pieces
from alol.models import policies, trainable
from alol.models.policies import LoadedPolicy


def log_ratios(
    policy: LoadedPolicy,
    reference: Path,
    rows: Sequence[dict[str, Any]],
    ids: Sequence[Sequence[int]],
    params: Params,
    accelerator: Accelerator,
    work: Work | None = None,
) -> list[dict[str, Any]]:
    """Rows of alol.data.schema.LOG_RATIOS, one for each of the prompts `rows`; `ids` are the policy's answers.

    `reference` is its folder. Both are in memory; of an adapter's base there is one copy.
    """
    of_reference = _reference(policy, reference, accelerator.device)
    policy.model.to(accelerator.device)
    encoder = policies.encoder(policy, params.policy)
    parts = Parts(work, schema.LOG_RATIOS)
    with tqdm(total=len(rows), initial=parts.rows, desc="log-ratios", unit="answer", leave=False) as bar:

        def compute(start: int, piece: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            prompts, responses = encoder.prompts(piece), ids[start : start + len(piece)]
            sums: list[Any] = [None] * len(piece)
            lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
            for part in chunks(lengths, params.launch.micro_batch, params.launch.tokens):
                batch = Batch(
                    [prompts[i] for i in part],
                    [responses[i] for i in part],
                    encoder.tokenizer.pad_token_id,
                    accelerator.device,
                )
                with accelerator.autocast(), torch.no_grad():
                    ratio = response_logp(policy.model, batch).double() - of_reference(batch).double()
                for i, value in zip(part, ratio.sum(-1).tolist(), strict=True):
                    sums[i] = value
            bar.update(len(piece))
            return [
                {"prompt_id": row["prompt_id"], "tokens": len(response), "log_ratio": value}
                for row, response, value in zip(piece, responses, sums, strict=True)
            ]

        through = parts.through(lambda: pieces([rows], params.generate.part_rows), compute)
        return [row for _, measured in through for row in measured]


def _reference(policy: LoadedPolicy, folder: Path, device: torch.device) -> Callable[[Batch], Tensor]:
    """A function that computes the reference's log-probabilities [B, T]: with the policy's base, or a second model."""
    if policy.pointer["base"] is not None:
        return trainable.frozen_logp(policy, folder)
    model = policies.load(folder).model.to(device)
    return lambda batch: response_logp(model, batch)
