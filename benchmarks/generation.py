"""Responses to dialogue prompts: continuous batching against transformers' `generate` in the order of the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import GenerationConfig

from alol.compute import generate
from alol.compute.batching import pad
from alol.compute.ends import end_ids
from alol.compute.kernels import fused
from alol.compute.launch import Machine
from alol.config import params
from benchmarks import dialogues, measure
from benchmarks.size import Size

YARDSTICK_BATCH = 16
SAME = 0.99  # of the responses must be equal
GAP = 1e-4  # between the two best logits where a response is not


class Ours:
    """The pipeline's own generation, with the demo's batch."""

    def __init__(self, size: Size, model: nn.Module, tokenizer: Any) -> None:
        p = params.load(size.task, root=dialogues.ROOT)
        self.settings = dataclasses.replace(
            p.generate, max_new_tokens=size.new_tokens, sample=False, repetition_penalty=1.0, beams=1, stop=[],
            stop_ids=[],
        )  # fmt: skip
        self.launch, self.tokenizer, self.model = p.launch, tokenizer, fused(model).eval()

    def __call__(self, prompts: list[list[int]]) -> list[list[int]]:
        machine = Machine(Accelerator(cpu=True), self.launch)
        return generate.sample_ids(self.model, self.tokenizer, prompts, generate.Decoding(self.settings, 0), machine)


class Library:
    """Greedy `generate` over the prompts as they come, padded on the left."""

    def __init__(self, size: Size, model: nn.Module, tokenizer: Any) -> None:
        self.model, self.pad_id = model.eval(), tokenizer.pad_token_id
        self.ends = end_ids(model, tokenizer)
        ends = {"eos_token_id": sorted(self.ends), "pad_token_id": self.pad_id}
        self.config = GenerationConfig(max_new_tokens=size.new_tokens, do_sample=False, **ends)

    @torch.no_grad()
    def __call__(self, prompts: list[list[int]]) -> list[list[int]]:
        found: list[list[int]] = []
        for start in range(0, len(prompts), YARDSTICK_BATCH):
            ids, mask = pad(prompts[start : start + YARDSTICK_BATCH], self.pad_id, left=True)
            output = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=self.config)
            for row in output[:, ids.shape[1] :].tolist():
                last = next((k for k, token in enumerate(row) if token in self.ends), len(row))
                found.append(row[: last + 1])
        return found


def against_generate(size: Size) -> Iterator[dict[str, Any]]:
    """Greedy responses, equal but for ties."""
    prompts, tokenizer = _prompts(size)
    vocabulary = min(size.vocabularies)
    ours, library = (side(size, dialogues.policy(size, vocabulary), tokenizer) for side in (Ours, Library))
    times: tuple[list[float], list[float]] = [], []
    parity: dict[str, float] = {}
    for _ in range(size.repeats):
        sides = zip((ours, library), times, strict=True)
        found, expected = (measure.kept(side, prompts, spent) for side, spent in sides)
        parity = parity_of(library.model, prompts, found, expected)
    tokens = sum(map(len, prompts)) + sum(map(len, found))
    yield measure.row(
        f"generation, {len(prompts)} prompts", f"transformers' generate, batches of {YARDSTICK_BATCH} as they come",
        measure.ratio(*times, parts=len(times[0])), **measure.speed(tokens * len(times[0]), times),
        memory_mb=round(measure.over_idle(_prepared, Ours, size), 1),
        yardstick_memory_mb=round(measure.over_idle(_prepared, Library, size), 1),
        parity=parity,
    )  # fmt: skip


def _prompts(size: Size) -> tuple[list[list[int]], Any]:
    found = dialogues.load(size)
    rows = [row for row in found.train if row["rank"] == 0][: size.prompts]
    return dialogues.encoded(rows, found.tokenizer, size)[0], found.tokenizer


def _prepared(side: type[Ours] | type[Library], size: Size) -> Any:
    prompts, tokenizer = _prompts(size)
    made = side(size, dialogues.policy(size, min(size.vocabularies)), tokenizer)
    return lambda: made(prompts[: 8 * YARDSTICK_BATCH])


def parity_of(
    model: nn.Module,
    prompts: list[list[int]],
    found: list[list[int]],
    expected: list[list[int]],
    same: float = SAME,
) -> dict[str, float]:
    """The share of equal responses, and the largest gap between the two best logits where others part."""
    different = [i for i in range(len(prompts)) if found[i] != expected[i]]
    share = 1 - len(different) / len(prompts)
    measure.below("the share of different responses", 1 - share, 1 - same + 1e-9)
    gap = max((_gap(model, prompts[i], found[i], expected[i]) for i in different), default=0.0)
    return {"equal": share, "gap": measure.below("a response, where the two best logits", gap, GAP)}


@torch.no_grad()
def _gap(model: nn.Module, prompt: list[int], found: list[int], expected: list[int]) -> float:
    """Of the logits at the first token that differs."""
    same = next(k for k, (x, y) in enumerate(zip(found, expected, strict=False)) if x != y)
    logits: Tensor = model(input_ids=torch.tensor([prompt + expected[:same]])).logits[0, -1]
    best = logits.topk(2).values
    return float(best[0] - best[1])
