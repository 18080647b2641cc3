"""SmolLM2-135M and MiniLM reading and writing: scores, likelihoods and greedy responses beside transformers' own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from alol.compute.ends import end_ids
from alol.config import components, model_names, params, yaml_files
from alol.models import policies
from alol.models.tokens import Encoder
from alol.rewards.likelihood import LikelihoodReward
from alol.rewards.options import parse
from benchmarks import dialogues, measure, plain, smollm2, smollm2_model
from benchmarks import generation as writing
from benchmarks import scoring as reading
from benchmarks.size import TINY, Size
from benchmarks.smollm2 import ASKED, compared
from benchmarks.smollm2_model import WORK

TOLERANCE = 1e-4  # of a score
Sides = tuple[Callable[[], Any], Callable[[], Any]]


def in_turn(sides: Sides, rounds: int) -> tuple[tuple[list[float], list[float]], list[Any]]:
    """Processor seconds of both in each round, and what they found in the last."""
    times: tuple[list[float], list[float]] = [], []
    found: list[Any] = []
    for _ in range(rounds):
        found = []
        for side, spent in zip(sides, times, strict=True):
            start = time.process_time()
            found.append(side())
            spent.append(time.process_time() - start)
    return times, found


def rows(size: Size, count: int) -> list[dict[str, str]]:
    """Prompts and responses as texts."""
    table, tokenizer = smollm2_model.examples(size, count).to_pydict(), smollm2_model.tokenizer(size)
    texts = zip(*(tokenizer.batch_decode(table[name]) for name in ("prompt_ids", "response_ids")), strict=True)
    return [{"prompt": prompt, "response": response} for prompt, response in texts]


def measured(size: Size) -> Iterator[dict[str, Any]]:
    """The rows of all that is read and written."""
    yield from smollm2.each(size, *((part,) for part in (scoring, likelihood, generation)))


def scoring(size: Size) -> list[dict[str, Any]]:
    """MiniLM as a sequence classifier with one logit, on prompts and responses together."""
    inputs, (tokenizer, model, longest) = ["prompt", "response"], classifier(size)
    texts = rows(size, 2 * WORK[size].scored)
    # the library's pipeline does not cut texts
    fitting = [row for row in texts if len(tokenizer(row["prompt"], row["response"])["input_ids"]) <= longest]
    found = fitting[: WORK[size].scored]
    ours = reading.Ours(inputs, tokenizer, model, longest)
    library = reading.Library(inputs, *classifier(size)[:2])
    times, (mine, theirs) = in_turn((lambda: ours(found), lambda: library(found)), WORK[size].rounds)
    tokens = sum(len(row.ids) for row in ours.encoded(found)) * WORK[size].rounds
    difference = measure.below("a score", float(np.abs(mine - theirs).max()), TOLERANCE)
    name = f"transformers' pipeline, batches of {reading.BATCH} as they come"
    return [compared("scoring by MiniLM", name, times, tokens, ASKED["reading"], parity={"score": difference})]


def classifier(size: Size) -> tuple[Any, nn.Module, int]:
    """A tokenizer, the model and its longest input."""
    if size == TINY:
        tokenizer = reading.tokenizer_of(size)
        return tokenizer, reading.model_of(size, len(tokenizer)), reading.LONGEST
    folder = model_names.folder(smollm2_model.ENCODER, "the encoder")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    longest = model.config.max_position_embeddings
    return AutoTokenizer.from_pretrained(folder, model_max_length=longest), model, longest


def likelihood(size: Size) -> list[dict[str, Any]]:
    """Mean log-probabilities of responses: the reward of kind likelihood, and a plain forward with all logits."""
    work, found = WORK[size], rows(size, WORK[size].likely)
    prompts, responses = ([row[name] for row in found] for name in ("prompt", "response"))
    defaults = yaml_files.read_defaults(dialogues.ROOT)["rewards"]
    own = {
        "kind": "likelihood",
        "model": smollm2_model.model_name(size),
        "max_prompt": 2 * work.prompt,
        "max_response": 128,
    }
    if own["model"] == smollm2_model.MODEL:
        own["sha256"] = params.load(smollm2.TASK, root=dialogues.ROOT).policy.sha256
    options = parse(components.rewards(defaults, {"it": own}, "rewards")["it"], "rewards.it")
    settings = replace(params.load(smollm2.TASK, root=dialogues.ROOT).launch, device="cpu")
    reward = LikelihoodReward("rewards.it", options, dialogues.ROOT, settings)
    model, tokenizer = smollm2_model.library_model(size).eval(), smollm2_model.tokenizer(size)
    encoder = Encoder(tokenizer, options, frozenset(end_ids(model, tokenizer)))
    encoded: list[tuple[list[int], list[int]]] = []

    @torch.inference_mode()
    def theirs() -> np.ndarray:
        read = encoder.prompts([{"prompt_id": "", "prompt": prompt, "cuts": [0]} for prompt in prompts])
        encoded[:] = zip(read, encoder.responses(responses), strict=True)
        means = []
        for start in range(0, len(encoded), work.batch):
            before, after = zip(*encoded[start : start + work.batch], strict=True)
            sums = plain.token_logp(model, before, after, tokenizer.pad_token_id).double().sum(1)
            means += [float(one) / len(said) for one, said in zip(sums, after, strict=True)]
        return np.array(means)

    contexts: list[dict] = [{}] * len(found)
    times, (mine, other) = in_turn((lambda: reward.score(prompts, responses, contexts, None), theirs), work.rounds)
    difference = measure.below("a likelihood", float(np.abs(mine - other).max()), TOLERANCE)
    tokens = sum(len(x) + len(y) for x, y in encoded) * work.rounds
    name = f"transformers' forward, batches of {work.batch} as they come"
    return [compared("likelihood", name, times, tokens, ASKED["reading"], parity={"mean": difference})]


def generation(size: Size) -> list[dict[str, Any]]:
    """Greedy responses to prompts in the model's own chat template, equal but for ties."""
    work, tokenizer = WORK[size], smollm2_model.tokenizer(size)
    prompts = smollm2_model.examples(size, work.prompts)["prompt_ids"].to_pylist()
    if tokenizer.chat_template:
        asked = [[{"role": "user", "content": text}] for text in tokenizer.batch_decode(prompts)]
        prompts = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    shorter = replace(size, new_tokens=work.new_tokens)
    ours = writing.Ours(shorter, policies.base_model(smollm2_model.model_name(size), None, quantized=False), tokenizer)
    library = writing.Library(shorter, smollm2_model.library_model(size), tokenizer)
    times, (mine, theirs) = in_turn((lambda: ours(prompts), lambda: library(prompts)), work.rounds)
    parity = writing.parity_of(library.model, prompts, mine, theirs, same=0.9)
    tokens = (sum(map(len, prompts)) + sum(map(len, mine))) * work.rounds
    name = f"transformers' generate, batches of {writing.YARDSTICK_BATCH} as they come"
    return [compared(f"generation, {len(prompts)} prompts", name, times, tokens, ASKED["reading"], parity=parity)]
