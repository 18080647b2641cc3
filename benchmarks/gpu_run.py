"""What the measurements on a GPU share: sizes, random texts and models, our updates, and comparisons before times."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from alol.algorithms import registry
from alol.base import memory
from alol.compute import launch
from alol.compute.batching import Batch, chunks
from alol.compute.logprob import ResponseLogp, response_logp
from alol.config import params
from alol.models import policies, scratch, trainable
from alol.training import loop, planning
from benchmarks import measure

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}  # relative, of the loss and of the gradient
NOISE = 1e-2  # that moves adapters off the reference, so that no importance weight is 1
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SOURCE = Path(__file__).parents[1]  # whose parameters are measured


@dataclass(frozen=True)
class Sizes:
    """The command's options."""

    task: str
    layers: int
    width: int
    heads: int
    intermediate: int
    vocabulary: int
    prompt: int
    response: int
    batch: int
    micro: int
    tokens: int | None
    updates: int
    recompute: bool
    xl_layers: int
    xl_width: int
    xl_heads: int
    xl_vocabulary: int
    xl_batch: int
    xl_tokens: int | None


@dataclass(frozen=True)
class Run:
    """What the parts share; `folder` is where LLaMA's base lies."""

    sizes: Sizes
    main: Accelerator
    tokenizer: PreTrainedTokenizerBase
    folder: Path

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id

    def settings(self, algorithm: str, batch: int, tokens: int) -> params.Params:
        """The task's, with micro-batches that only their tokens limit."""
        p = params.load(self.sizes.task, algorithm, SOURCE)
        limits = {"micro_batch": 10**6, "tokens": tokens, "generate_batch": self.sizes.batch}
        settings = dataclasses.replace(p.launch, precision=precision(), recompute=self.sizes.recompute, **limits)
        return dataclasses.replace(p, launch=settings, train=dataclasses.replace(p.train, batch_size=batch))

    @property
    def tokens(self) -> int:
        """Padded tokens of one of our passes: half of the longest that `micro` rows of the plain method can be."""
        return self.sizes.tokens or self.sizes.micro * (self.sizes.prompt + self.sizes.response) // 2


class Machine(Protocol):
    """What a side needs of a run."""

    @property
    def main(self) -> Accelerator: ...

    @property
    def pad_id(self) -> int: ...


def precision() -> str:
    return "bf16" if torch.cuda.is_available() else "fp32"


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def say(what: str) -> None:
    click.echo(what, err=True)


def settled(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns, when the device is through with it."""
    result = work(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `work` returns, its seconds, and the peak in MiB: allocated on the GPU, without one that of the process."""
    cuda = torch.cuda.is_available()
    (torch.cuda.reset_peak_memory_stats if cuda else measure.reset_peak)()
    start = time.perf_counter()
    result = settled(work)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else memory.peak()
    return result, {"seconds": round(seconds, 3), "peak_memory_mb": round(peak, 1)}


def texts(words: int, sizes: Sizes, count: int, responses: int = 1) -> pa.Table:
    """Random ids of `count` prompts of varying length with `responses` each, and an advantage above 0.

    Lengths are log-normal as of dialogues: medians of 160 for prompts of at most 640 tokens and 50 for responses of at
    most 128, in proportion for other limits.
    """
    generator = np.random.default_rng(1)

    def drawn(limit: int, median: float, spread: float, number: int) -> list[list[int]]:
        lengths = generator.lognormal(np.log(median * limit), spread, number).round().clip(1, limit).astype(int)
        return [generator.integers(3, words, length).tolist() for length in lengths]

    rows = count * responses
    prompts = [ids for ids in drawn(sizes.prompt, 160 / 640, 0.8, count) for _ in range(responses)]
    columns = {
        "prompt_id": [str(i // responses) for i in range(rows)], "rank": [i % responses for i in range(rows)],
        "prompt_ids": prompts, "response_ids": drawn(sizes.response, 50 / 128, 0.6, rows),
        "advantage": generator.uniform(0.1, 1.0, rows).astype(np.float32),
    }  # fmt: skip
    return pa.table(columns)


def lengths(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the prompts and of the responses [N]."""
    found = (table[name].combine_chunks().value_lengths().to_numpy() for name in ("prompt_ids", "response_ids"))
    return next(found), next(found)


def words(count: int, generator: np.random.Generator) -> list[str]:
    """Made of three to eight random letters."""
    lengths = generator.integers(3, 9, count)
    return ["".join(LETTERS[i] for i in generator.integers(0, 26, length)) for length in lengths]


def tokenizer_of(known: list[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """Trained on the words, so that every id of the model stands for a text."""
    return scratch.train_tokenizer([" ".join(known)], vocabulary)


def useful(table: pa.Table) -> int:
    """Tokens of prompts and responses, padding not counted."""
    return int(sum(x.sum() for x in lengths(table)))


def with_reference(run: Machine, p: params.Params, model: nn.Module, table: pa.Table) -> pa.Table:
    """`table` with the log-probabilities that `model` gives without its adapter."""
    prompts, responses = table["prompt_ids"].to_pylist(), table["response_ids"].to_pylist()
    logp: list[list[float]] = [[] for _ in prompts]
    sizes = [len(x) + len(y) for x, y in zip(prompts, responses, strict=True)]
    without = getattr(model, "disable_adapter", contextlib.nullcontext)
    for part in chunks(sizes, p.launch.micro_batch, p.launch.tokens):
        batch = Batch([prompts[i] for i in part], [responses[i] for i in part], run.pad_id, run.main.device)
        with torch.no_grad(), without(), run.main.autocast():
            found = response_logp(model, batch).tolist()
        for i, line in zip(part, found, strict=True):
            logp[i] = line[: len(responses[i])]
    return table.append_column("ref_logp", pa.array(logp, pa.list_(pa.float32())))


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def moved(model: nn.Module) -> None:
    """Moves what is trained a little away from the reference."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * NOISE)


class Ours:
    """The pipeline's own step and optimizer over the rows of a table, in their order."""

    def __init__(self, run: Machine, p: params.Params, model: nn.Module, table: pa.Table, algorithm: str) -> None:
        chosen = registry.FROM_DATA[algorithm]
        examples = (planning.Groups if chosen.group else planning.Examples)(table, run.pad_id)
        self.model, self.size, self.clip_norm = model, p.train.batch_size, p.train.optimizer.clip_norm
        self.optimizer = loop.make_optimizer(model, p.train.optimizer)
        scorer = run.main.prepare(ResponseLogp(model))
        recipe = loop.Recipe(chosen, p.hyperparameters, p.train.optimizer)
        self.step = loop.Step(scorer, examples, recipe, launch.Machine(run.main, p.launch))

    def rows(self, update: int) -> Tensor:
        return torch.arange(update * self.size, (update + 1) * self.size)

    def gradients(self, rows: Tensor) -> dict[str, float]:
        self.model.train()
        return self.step(rows)

    def apply(self) -> None:
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def update(self, update: int) -> float:
        loss = self.gradients(self.rows(update))["loss"]
        self.apply()
        return loss


def parity(
    ours: Ours, rows: Tensor, theirs: Callable[[Tensor], float], model: nn.Module | None = None
) -> dict[str, float | bool]:
    """Relative differences of the loss and of the gradient, which `theirs` leaves on `model` (ours if None)."""
    loss = ours.gradients(rows)["loss"]
    mine = _taken(ours.model)
    expected = theirs(rows)
    others = _taken(model or ours.model)
    difference = sum(((mine[name] - one) ** 2).sum().double() for name, one in others.items())
    scale = sum((one**2).sum().double() for one in others.values())
    found = {"loss": abs(loss - expected) / abs(expected), "gradient": float((difference / scale) ** 0.5)}
    limit = TOLERANCE[precision()]
    return {**found, "tolerance": limit, "passed": mine.keys() == others.keys() and max(found.values()) <= limit}


def _taken(model: nn.Module) -> dict[str, Tensor]:
    """The gradients by name, in fp32, taken off the model."""
    found = {name: parameter.grad.float() for name, parameter in trained(model).items() if parameter.grad is not None}
    model.zero_grad()
    return found


def target(found: float, wanted: float, passed: bool) -> dict[str, float | bool]:
    """A figure beside its target; what was not computed alike does not pass."""
    return {"found": round(found, 4), "target": wanted, "passed": bool(passed)}


def base(run: Run) -> nn.Module:
    """The base as the pipeline loads it in NF4."""
    return policies.base_model(str(run.folder), None, quantized=True).to(run.main.device)


def adapter(p: params.Params) -> LoraConfig:
    lora = p.policy.lora
    return LoraConfig(task_type="CAUSAL_LM", r=lora.r, lora_alpha=lora.alpha, target_modules=lora.targets)


def adapted(run: Run, p: params.Params) -> nn.Module:
    """The base with a new adapter, which leaves it as it is."""
    torch.manual_seed(1)
    model = get_peft_model(base(run), adapter(p)).to(run.main.device).eval()
    if p.launch.recompute:
        trainable.recompute(model)
    return model
