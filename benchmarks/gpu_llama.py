"""LLaMA in NF4 with LoRA: updates of A-LoL against the method written plainly, and a generation batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerBase

from alol.compute import generate
from alol.compute.launch import Machine
from alol.config import params
from benchmarks import measure, plain
from benchmarks.gpu_run import (
    Ours,
    Run,
    adapted,
    base,
    device,
    measured,
    moved,
    parity,
    say,
    settled,
    target,
    texts,
    trained,
    useful,
    with_reference,
)

SPEED, MEMORY = 2.5, 0.5  # targets: times as fast at least, of the memory at most


@dataclass(frozen=True)
class Shape:
    """Of a LLaMA; `positions` are the most tokens of a text."""

    layers: int
    width: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int


def save_base(shape: Shape, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A LLaMA of this shape with random weights, in bf16 on disk."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary, num_hidden_layers=shape.layers, hidden_size=shape.width,
        num_attention_heads=shape.heads, intermediate_size=shape.intermediate,
        max_position_embeddings=shape.positions, tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_base(run: Run) -> None:
    """That of the run, where none is kept."""
    sizes = run.sizes
    shape = (sizes.layers, sizes.width, sizes.heads, sizes.intermediate, sizes.vocabulary)
    if not (run.folder / "config.json").exists():
        save_base(Shape(*shape, positions=sizes.prompt + sizes.response), run.tokenizer, run.folder)


class Plain:
    """The plain method over the same rows, on the same policy and optimizer, with a second base as the reference."""

    def __init__(self, run: Run, p: params.Params, ours: Ours, table: pa.Table) -> None:
        self.run, self.ours, self.table, self.clip = run, ours, table, p.hyperparameters["clip"]
        self.reference = base(run).requires_grad_(False)

    def gradients(self, rows: Tensor) -> float:
        self.ours.model.train()
        return sum(self._micro_batch(part, len(rows)) for part in rows.split(self.run.sizes.micro))

    def _micro_batch(self, rows: Tensor, batch: int) -> float:
        chosen = self.table.take(pa.array(rows.numpy()))
        prompts, responses = chosen["prompt_ids"].to_pylist(), chosen["response_ids"].to_pylist()
        advantages = torch.tensor(chosen["advantage"].to_numpy(), device=self.run.main.device)
        with self.run.main.autocast():
            loss = plain.a_lol(
                self.ours.model, self.reference, prompts, responses, advantages, self.clip, self.run.pad_id
            )
        loss = loss * len(rows) / batch
        loss.backward()
        return loss.item()

    def update(self, update: int) -> None:
        self.gradients(self.ours.rows(update))
        self.ours.apply()


def llama(run: Run) -> dict[str, Any]:
    """A-LoL against the plain method. Our memory is measured before the reference is loaded."""
    sizes = run.sizes
    p = run.settings("a_lol", sizes.batch, run.tokens)
    say("LLaMA: making and loading the base")
    model, loading = measured(lambda: (make_base(run), adapted(run, p))[1])
    table = with_reference(run, p, model, texts(sizes.vocabulary, sizes, sizes.updates * sizes.batch))
    ours = Ours(run, p, model, table, "a_lol")
    first = ours.gradients(ours.rows(0))
    ours.optimizer.zero_grad()
    say("LLaMA: our updates")
    losses, alone = measured(lambda: [ours.update(i) for i in range(sizes.updates)])
    say("LLaMA: generation")
    written = generation(run, p, model, table["prompt_ids"].to_pylist()[: sizes.batch])
    say("LLaMA: loading the plain method's reference, and comparing losses and gradients")
    moved(model)
    theirs = Plain(run, p, ours, table)
    same = parity(ours, ours.rows(0), theirs.gradients)
    say("LLaMA: updates of the plain method")
    _, beside = measured(lambda: [theirs.update(i) for i in range(sizes.updates)])
    say("LLaMA: both in turn")
    times: tuple[list[float], list[float]] = [], []
    for i in range(sizes.updates):
        times[0].append(measure.timed(settled, ours.update, i))
        times[1].append(measure.timed(settled, theirs.update, i))
    speed = measure.ratio(*times)
    share = alone["peak_memory_mb"] / beside["peak_memory_mb"]
    return {
        "parameters": sum(parameter.numel() for parameter in trained(model).values()),
        "making_and_loading": loading,
        "abs_log_ratio_of_the_first_update": first["abs_log_ratio"],
        "losses": losses,
        "training": measure.row(
            "a_lol", "the method written plainly", speed, **measure.speed(useful(table), times),
            memory_mb=alone["peak_memory_mb"], yardstick_memory_mb=beside["peak_memory_mb"], parity=same,
            tokens_of_a_pass=run.tokens, updates=sizes.updates,
        ),
        "speed": target(speed.ratio, SPEED, same["passed"] and speed.ratio >= SPEED),
        "memory": target(share, MEMORY, same["passed"] and share <= MEMORY),
        "generation": written,
    }  # fmt: skip


def generation(run: Run, p: params.Params, model: nn.Module, prompts: list[list[int]]) -> dict[str, float]:
    """Seconds, peak memory and speed of one batch of responses of full length."""
    model.eval()
    settings = dataclasses.replace(p.generate, max_new_tokens=run.sizes.response, stop=[], stop_ids=[])
    decoding, machine = generate.Decoding(settings, 1), Machine(run.main, p.launch)
    ids, found = measured(lambda: generate.sample_ids(model, run.tokenizer, prompts, decoding, machine))
    return {**found, "tokens_per_second": round(sum(map(len, ids)) / found["seconds"], 1)}
