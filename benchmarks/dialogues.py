"""Real texts of a task, as token ids: the lengths that decide how fast anything here is."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from alol.config import params
from alol.data import clean, download, schema
from alol.models import scratch
from benchmarks.size import Size

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Dialogues:
    """Rows of the training and validation split, in the files' order, and a tokenizer trained on the former."""

    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    tokenizer: PreTrainedTokenizerBase


@functools.cache
def load(size: Size) -> Dialogues:
    """The task's own download and clean in a temporary folder."""
    settings = params.load(size.task, "a_lol", ROOT)
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stderr(io.StringIO()):
        raw, target = Path(place, "raw"), Path(place, "clean")
        download.fetch(size.task, settings.source, raw, Path(place, "work"))
        clean.clean(size.task, settings.clean, raw, target)
        train, validation = (list(schema.rows(target / f"{split}.parquet")) for split in ("train", "validation"))
    kept = {row["prompt_id"] for row in train if row["rank"] == 0}
    kept = set(sorted(kept)[: size.texts]) if len(kept) > size.texts else kept
    train = [row for row in train if row["prompt_id"] in kept]
    texts = [text for row in train for text in (row["prompt"], row["response"])]
    return Dialogues(train, validation, scratch.train_tokenizer(texts, size.words))


def encoded(rows: list[dict[str, Any]], tokenizer: Any, size: Size) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of prompts, their last `max_prompt`, and of responses with the end of text, their first `max_response`."""
    prompts = [ids[-size.max_prompt :] for ids in tokenizer([row["prompt"] for row in rows])["input_ids"]]
    responses = tokenizer([row["response"] for row in rows])["input_ids"]
    return prompts, [[*ids, tokenizer.eos_token_id][: size.max_response] for ids in responses]


def policy(size: Size, vocabulary: int, seed: int = 0) -> GPT2LMHeadModel:
    """A random model of GPT-2's shape, without dropout, with the activation of the published GPT-2."""
    import torch

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary, n_layer=size.layers, n_embd=size.width, n_head=size.heads, n_positions=1024,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def shuffled(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).permutation(count).tolist()


@contextlib.contextmanager
def at_root():
    """With the project's folder as the current one."""
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        yield
    finally:
        os.chdir(before)
