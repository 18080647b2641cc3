"""Scores of texts by an encoder: the pipeline's own scoring against the library's `pipeline`, in the file's order, and
in bf16 against fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from tokenizers import Tokenizer, processors
from torch import nn
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification, pipeline

from alol.config import components, yaml_files
from alol.rewards import precision
from alol.rewards.classifier import ClassifierNetwork, sigmoid
from alol.rewards.network import all_logits
from alol.rewards.options import parse
from benchmarks import dialogues, measure
from benchmarks.size import Size

BATCH = 32
LONGEST = 1024  # tokens; no dialogue here is longer, so neither side cuts a text
TOLERANCE = 1e-5
RANKING = 2e-2  # that bf16 may take from a correlation of 1: scores of random weights lie close together

Rows = list[dict[str, Any]]


def against_pipeline(size: Size) -> Iterator[dict[str, Any]]:
    """A RoBERTa of random weights with one logit: its probability, of a response and of prompt and response."""
    for inputs in (["prompt", "response"], ["response"]):
        # a tokenizer each: the library's pipeline leaves its padding switched on
        (rows, tokenizer), (_, other) = _rows(size), _rows(size)
        ours = Ours(inputs, tokenizer, model_of(size, len(tokenizer)), LONGEST)
        library = Library(inputs, other, model_of(size, len(other)))
        times: tuple[list[float], list[float]] = [], []
        for _ in range(size.repeats):
            sides = zip((ours, library), times, strict=True)
            found, expected = (measure.kept(side, rows, spent) for side, spent in sides)
            difference = measure.below("a score", float(np.abs(found - expected).max()), TOLERANCE)
        tokens = sum(len(row.ids) for row in ours.encoded(rows))
        yield measure.row(
            f"scoring, {' + '.join(inputs)}", f"transformers' pipeline, batches of {BATCH} as they come",
            measure.ratio(*times, parts=len(times[0])), **measure.speed(tokens * len(times[0]), times),
            memory_mb=round(measure.over_idle(_prepared, Ours, size, inputs), 1),
            yardstick_memory_mb=round(measure.over_idle(_prepared, Library, size, inputs), 1),
            parity={"score": difference},
        )  # fmt: skip


def against_fp32(size: Size) -> Iterator[dict[str, Any]]:
    """The encoder in bf16 against the same in fp32: one component's `precision` and another's."""
    inputs = ["prompt", "response"]
    rows, tokenizer = _rows(size)
    half, exact = (Ours(inputs, tokenizer, model_of(size, len(tokenizer)), LONGEST, kind) for kind in ("bf16", "fp32"))
    times: tuple[list[float], list[float]] = [], []
    for _ in range(size.repeats):
        found, expected = (measure.kept(side, rows, spent) for side, spent in zip((half, exact), times, strict=True))
    lost = measure.below("1 - Spearman's correlation", 1 - float(spearmanr(found, expected).statistic), RANKING)
    tokens = sum(len(row.ids) for row in exact.encoded(rows))
    yield measure.row(
        "scoring in bf16", "the same in fp32", measure.ratio(*times, parts=len(times[0])),
        **measure.speed(tokens * len(times[0]), times),
        memory_mb=round(measure.over_idle(_prepared, Ours, size, inputs, "bf16"), 1),
        yardstick_memory_mb=round(measure.over_idle(_prepared, Ours, size, inputs), 1),
        parity={"1 - Spearman": lost},
    )  # fmt: skip


class Ours:
    """As stage annotate scores."""

    def __init__(
        self, inputs: list[str], tokenizer: PreTrainedTokenizerFast, model: nn.Module, longest: int, kind: str = "fp32"
    ) -> None:
        spec = {"kind": "classifier", "inputs": inputs, "output": "sigmoid", "label": 0, "max_length": longest}
        own = {"it": {**spec, "precision": kind}}
        defaults = yaml_files.read_defaults(dialogues.ROOT)["rewards"]
        self.options = parse(components.rewards(defaults, own, "rewards")["it"], "rewards.it")
        self.network = ClassifierNetwork(precision.frozen(model, kind), tokenizer, self.options, "rewards.it")

    def encoded(self, rows: Rows) -> Any:
        return self.network.encode([row["prompt"] for row in rows], [row["response"] for row in rows], [{}] * len(rows))

    def __call__(self, rows: Rows) -> np.ndarray:
        return sigmoid(all_logits(self.network, self.encoded(rows), self.options, "score")[:, 0])


class Library:
    """Texts to probabilities, padded to the longest of 32."""

    def __init__(self, inputs: list[str], tokenizer: PreTrainedTokenizerFast, model: nn.Module) -> None:
        self.inputs = inputs
        self.pipeline = pipeline(
            "text-classification", model=model, tokenizer=tokenizer, batch_size=BATCH, device="cpu"
        )

    def __call__(self, rows: Rows) -> np.ndarray:
        if len(self.inputs) == 1:
            texts: list[Any] = [row["response"] for row in rows]
        else:
            texts = [{"text": row["prompt"], "text_pair": row["response"]} for row in rows]
        return np.array([one["score"] for one in self.pipeline(texts, padding=True)])


def model_of(size: Size, words: int) -> RobertaForSequenceClassification:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=words, hidden_size=size.width, num_hidden_layers=size.layers, num_attention_heads=size.heads,
        intermediate_size=4 * size.width, max_position_embeddings=LONGEST + 1, type_vocab_size=1, pad_token_id=0,
        num_labels=1,
    )  # fmt: skip
    model = RobertaForSequenceClassification(config).eval()
    with torch.no_grad():
        model.classifier.out_proj.weight.mul_(10)  # so that texts get scores that differ
    return model


def _rows(size: Size) -> tuple[Rows, PreTrainedTokenizerFast]:
    """Preferred responses, and a tokenizer."""
    rows = [row for row in dialogues.load(size).train if row["rank"] == 0]
    short = [row for row in rows if len(row["prompt"]) + len(row["response"]) < 2 * LONGEST]
    return short[: size.scored], tokenizer_of(size)


def tokenizer_of(size: Size) -> PreTrainedTokenizerFast:
    """The dialogues' tokenizer with RoBERTa's way of joining two texts."""
    found = dialogues.load(size)
    backend = Tokenizer.from_str(found.tokenizer.backend_tokenizer.to_str())
    end = found.tokenizer.eos_token
    marks = [(end, found.tokenizer.eos_token_id)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{end} $A {end}", pair=f"{end} $A {end} {end} $B {end}", special_tokens=marks
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=found.tokenizer.pad_token, model_max_length=LONGEST,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _prepared(side: type[Ours] | type[Library], size: Size, inputs: list[str], kind: str = "fp32") -> Callable[[], Any]:
    rows, tokenizer = _rows(size)
    model = model_of(size, len(tokenizer))
    made = Ours(inputs, tokenizer, model, LONGEST, kind) if side is Ours else Library(inputs, tokenizer, model)
    return lambda: made(rows)
