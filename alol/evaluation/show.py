"""What a policy sees of a row, token by token, as lines for a reader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from alol.base.errors import InputError
from alol.base.files import read_json
from alol.compute.ends import named_ends
from alol.config.params import Params
from alol.models import policies, templates
from alol.models.loading import loaded
from alol.models.tokens import Encoder


def lines(row: dict[str, Any], params: Params, reference: Path) -> Iterator[str]:
    """The row's prompt and response as ids and texts, and which of them are trained on and which end a response."""
    tokenizer, named = _files(params, reference)
    encoder = Encoder(tokenizer, params.policy, named)
    ends = {tokenizer.eos_token_id, *named, *encoder.ends, *params.generate.stop_ids}
    prompt, response = encoder.prompts([row])[0], encoder.responses([row["response"]])[0]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    where = f"prompt {row['prompt_id']}, rank {row['rank']}"
    yield f"{where}: {len(prompt)} tokens of the prompt, {len(response)} trained on"
    yield f"{'place':>6} {'id':>7}  {'':8} text"
    for place, token in enumerate([*prompt, *response]):
        answer = place >= len(prompt)
        kind = ("ends" if token in ends else "trained") if answer else ""
        mark = "special" if token in special else ""
        yield f"{place:>6} {token:>7}  {kind:8} {tokenizer.decode([token])!r} {mark}".rstrip()
    yield "generation ends at: " + ", ".join(f"{token} {tokenizer.decode([token])!r}" for token in sorted(ends))
    if not response or response[-1] not in ends:
        yield "the response has no end: it was cut at policy.max_response, or policy.end_of_text is false"


def _files(params: Params, reference: Path) -> tuple[PreTrainedTokenizerBase, set[int]]:
    """The tokenizer and the end tokens that the model's files name: the reference's, or before it those of its base."""
    policy = params.policy
    if (reference / policies.POINTER).exists():
        found = read_json(reference / policies.POINTER, policies.Pointer)
        name, revision = policies.base_path(reference, found["base"]), found["revision"]
        tokenizer = policies.tokenizer_of(str(reference), None)
    elif policy.model == "scratch":
        raise InputError(f"{reference} is missing, which brings the tokenizer; run `dvc repro reference`")
    else:
        name, revision = os.path.expandvars(policy.model), policy.revision
        named = (policy.tokenizer, policy.tokenizer_revision) if policy.tokenizer else (policy.model, policy.revision)
        tokenizer = policies.tokenizer_of(*named)
        templates.keep(policy.template, tokenizer)
    config = loaded(AutoConfig.from_pretrained, name, revision, "the model")
    file = Path(name) / "generation_config.json"
    own = loaded(GenerationConfig.from_pretrained, name, revision, "the model") if file.exists() else None
    return tokenizer, named_ends(config, own)
