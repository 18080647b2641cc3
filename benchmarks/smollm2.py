"""SmolLM2-135M with adapters on real small talk: updates against the plain method, and what is shared with TRL's.

Both sides run in turn in one process with one thread and are timed in its processor seconds, so that what else the
machine does matters less. Each measurement has a process of its own, and compares what was computed too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import get_peft_model
from torch import nn

from alol.algorithms import registry
from alol.compute import launch
from alol.config import params
from alol.models import policies, trainable
from benchmarks import dialogues, gpu_run, measure, plain
from benchmarks.size import TINY, Size
from benchmarks.smollm2_model import PACKAGES, WORK, examples, library_model, model_name, tokenizer

TASK = "chitchat"  # whose adapter and constants are measured
NOISE = 2e-3  # that moves adapters off the reference, so that no importance weight is 1
TOLERANCE = {"loss": 1e-4, "gradient": 5e-4}  # in fp32
ROUNDING = 2.0  # in bf16: how many times as far from the gradient in fp32 ours may be as theirs, on few responses
ASKED = {"a_lol": 4.0, "nll": 2.5, "dpo": 4.0, "bf16": 1.7, "reading": 2.5, "share": 0.8}


def missing() -> list[str]:
    """The packages with the model and the texts that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def each(size: Size, *parts: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """The rows of parts, functions and what they take beside the size, from a process each."""
    if size != TINY and (lacking := missing()):
        yield {"name": "smollm2", "skipped": f"not installed: {', '.join(lacking)}; `make models` does"}
        return
    for part, *arguments in parts:
        yield from measure.in_process(alone, part, size, *arguments)


def updates(size: Size) -> Iterator[dict[str, Any]]:
    """Updates of a_lol against the plain method, in both precisions, and of these against each other."""
    yield from each(size, (against_plain, "fp32"), (against_plain, "bf16"))


def alone(part: Callable[..., Any], *arguments: Any) -> Any:
    """What a part returns on one thread, in the project's folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with dialogues.at_root():
            return part(*arguments)
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Machine:
    main: Accelerator
    pad_id: int


def settings(algorithm: str, precision: str, batch: int) -> params.Params:
    """The task's, a batch at once on the CPU, gradients as they are."""
    p = params.load(TASK, algorithm, dialogues.ROOT)
    whole = {"device": "cpu", "precision": precision, "micro_batch": 10**6, "tokens": 10**9, "recompute": False}
    optimizer = dataclasses.replace(p.train.optimizer, name="adamw", clip_norm=None)
    train = dataclasses.replace(p.train, optimizer=optimizer, batch_size=batch)
    return dataclasses.replace(p, launch=dataclasses.replace(p.launch, **whole), train=train)


def ours_of(size: Size, p: params.Params, algorithm: str, table: pa.Table) -> tuple[gpu_run.Ours, pa.Table]:
    """Our side over the rows of the table, as the stages make it, and the table with the stored reference."""
    AcceleratorState._reset_state(True)  # the precision of an earlier side would stay
    machine = Machine(launch.accelerator(p.launch), tokenizer(size).pad_token_id)
    pointer = policies.Pointer(
        base=model_name(size), revision=None, fingerprint=None, adapter=None, adapter_revision=None, quantized=False
    )
    loaded = policies.LoadedPolicy(
        policies.base_model(model_name(size), None, quantized=False), tokenizer(size), pointer
    )
    model = trainable.prepare(loaded, p.policy, Path("reference"), seed=0).model
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in gpu_run.trained(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * NOISE)
    launch.placed(model, machine.main, trained=True)
    if "ref_logp" in registry.FROM_DATA[algorithm].columns:
        table = gpu_run.with_reference(machine, p, model, table)
    return gpu_run.Ours(machine, p, model, table, algorithm), table


def with_our_adapter(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    mine = gpu_run.trained(ours)
    for name, parameter in gpu_run.trained(theirs).items():
        parameter.data.copy_(mine[name].data)
    return theirs


class Exact(NamedTuple):
    """Of the first update in fp32, where both sides compute the same."""

    loss: float
    gradients: dict[str, torch.Tensor]


class Turns:
    """One update of theirs, then one of ours on the same rows, and so on; the first of both is compared.

    In fp32 with each other. In bf16, rounded log-probabilities of a whole response stand in the exponent of its weight,
    so that two orders of the same sums differ much: there both are compared with `exact`, and ours must be as near.
    """

    def __init__(self, ours: gpu_run.Ours, exact: Exact | None = None) -> None:
        self.ours, self.exact = ours, exact
        self.times: tuple[list[float], list[float]] = [], []
        self.parity: dict[str, float] = {}

    def begin(self) -> None:
        """Their update starts."""
        self._start = time.process_time()

    def between(self, loss: float, model: nn.Module, scale: float = 1.0) -> None:
        """They have the gradients of a loss `scale` times smaller than ours, on `model`; ours are computed."""
        theirs, rows = time.process_time() - self._start, self.ours.rows(len(self.times[0]))
        start = time.process_time()
        found = self.ours.gradients(rows)["loss"]
        self._spent = [time.process_time() - start, theirs]
        if not self.parity:
            self.parity = self._compared(found, scale * loss, measure.gradients(model), scale)
        self._start = time.process_time()

    def _compared(
        self, loss: float, expected: float, theirs: dict[str, torch.Tensor], scale: float
    ) -> dict[str, float]:
        mine = measure.gradients(self.ours.model)
        gradient = measure.gradient_difference(mine, theirs, scale)
        found = {"loss": abs(loss - expected) / abs(expected), "gradient": gradient}
        if self.exact is None:
            return {name: measure.below(f"the {name}", x, TOLERANCE[name]) for name, x in found.items()}
        exact = self.exact
        off = measure.gradient_difference(mine, exact.gradients)
        scaled = {name: scale * one for name, one in theirs.items()}
        theirs_off = measure.gradient_difference(scaled, exact.gradients)
        if not off <= ROUNDING * theirs_off:
            raise measure.ParityError(
                f"in bf16 our gradient is {off:.3g} of its norm away from that in fp32 and theirs {theirs_off:.3g}, "
                f"more than {ROUNDING:g} times as far; nothing was measured"
            )
        losses = {"loss_off_fp32": loss, "their_loss_off_fp32": expected}
        away = {name: abs(one - exact.loss) / abs(exact.loss) for name, one in losses.items()}
        return {**found, "gradient_off_fp32": off, "their_gradient_off_fp32": theirs_off, **away}

    def end(self) -> None:
        """They have taken the optimizer's step; so do we."""
        self._spent[1] += time.process_time() - self._start
        start = time.process_time()
        self.ours.apply()
        self._spent[0] += time.process_time() - start
        for side, seconds in zip(self.times, self._spent, strict=True):
            side.append(seconds)


def compared(
    name: str, yardstick: str, times: tuple[list[float], list[float]], tokens: int, asked: float, **more: Any
) -> dict[str, Any]:
    found = measure.ratio(*times, parts=len(times[0]))
    return measure.row(f"smollm2, {name}", yardstick, found, asked=asked, **measure.speed(tokens, times), **more)


def padding(table: pa.Table, rows: int, *, apart: bool) -> float:
    """The share of padding where so many rows after another are padded; `apart`: prompts and responses each."""
    before, after = gpu_run.lengths(table)
    padded = 0
    for part in (slice(start, start + rows) for start in range(0, len(before), rows)):
        x, y = before[part], after[part]
        padded += len(x) * int(x.max() + y.max() if apart else (x + y).max())
    return round(1 - int(before.sum() + after.sum()) / padded, 3)


def first_of(exact: gpu_run.Ours) -> Exact:
    """The first update; the gradients stay on the model too."""
    loss = exact.gradients(exact.rows(0))["loss"]
    return Exact(loss, {name: one.clone() for name, one in measure.gradients(exact.model).items()})


def against_plain(size: Size, precision: str) -> list[dict[str, Any]]:
    """A-LoL with a second model as the live reference, padded, all logits; and our share of the matrix rate.

    In bf16 beside ours in fp32 too.
    """
    work, bf16 = WORK[size], precision == "bf16"
    p, plain_table = settings("a_lol", precision, work.batch), examples(size, work.batch * work.rounds)
    exact = ours_of(size, settings("a_lol", "fp32", work.batch), "a_lol", plain_table)[0] if bf16 else None
    ours, table = ours_of(size, p, "a_lol", plain_table)
    model = with_our_adapter(get_peft_model(library_model(size), gpu_run.adapter(p)), ours.model).train()
    reference = library_model(size).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=p.train.optimizer.lr)
    turns, rates, in_fp32 = Turns(ours), [], []
    cast = functools.partial(torch.autocast, "cpu", torch.bfloat16) if bf16 else contextlib.nullcontext
    for update in range(work.rounds):
        rates.append(matrix_rate(model.config, table, precision))
        if exact is not None:
            start = time.process_time()
            found = first_of(exact) if update == 0 else exact.gradients(exact.rows(update))
            exact.apply()
            in_fp32.append(time.process_time() - start)
            turns.exact = found if isinstance(found, Exact) else turns.exact
        chosen = table.take(pa.array(ours.rows(update).numpy()))
        turns.begin()
        with cast():
            loss = plain.a_lol(
                model, reference, chosen["prompt_ids"].to_pylist(), chosen["response_ids"].to_pylist(),
                torch.tensor(chosen["advantage"].to_numpy()), p.hyperparameters["clip"], tokenizer(size).pad_token_id,
            )  # fmt: skip
        loss.backward()
        turns.between(loss.item(), model)
        optimizer.step()
        optimizer.zero_grad()
        turns.end()
    row = compared(
        f"a_lol, {precision}", "the method written plainly", turns.times, gpu_run.useful(table), ASKED["a_lol"],
        parity=turns.parity, padding=padding(table, work.batch, apart=True),
    )  # fmt: skip
    needed = [
        sum(operations(ours.model, table.take(pa.array(ours.rows(i).numpy()))).values()) for i in range(work.rounds)
    ]
    shares = [x / seconds / rate for x, seconds, rate in zip(needed, turns.times[0], rates, strict=True)]
    beside = [compared(
        "a_lol in bf16", "the same in fp32", (turns.times[0], in_fp32), gpu_run.useful(table), ASKED["bf16"],
        parity=turns.parity,
    )] if bf16 else []  # fmt: skip
    return [row, *beside, {
        "name": f"smollm2, share of the matrix rate, a_lol, {precision}", "found": round(statistics.median(shares), 3),
        "lowest_and_highest": [round(min(shares), 3), round(max(shares), 3)], "asked": ASKED["share"],
        "gflops_of_the_matrix_rate": round(statistics.median(rates) / 1e9, 1),
        "gflop_of_an_update": round(statistics.mean(needed) / 1e9, 1),
        "seconds_of_an_update": round(statistics.mean(turns.times[0]), 2),
    }]  # fmt: skip


def matrix_rate(config: Any, table: pa.Table, precision: str) -> float:
    """Operations a processor second of this thread in matrix products: the best of two shapes, thrice each."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    tokens = gpu_run.useful(table) // 3
    found = []
    for n, k, m in ((1024, 1024, 1024), (tokens, config.hidden_size, config.intermediate_size)):
        a, b = torch.randn(n, k, dtype=dtype), torch.randn(m, k, dtype=dtype)
        nn.functional.linear(a, b)
        for _ in range(3):
            start = time.process_time()
            for _ in range(3):
                nn.functional.linear(a, b)
            found.append(3 * 2 * n * k * m / max(time.process_time() - start, 1e-9))
    return max(found)


def operations(model: nn.Module, table: pa.Table) -> dict[str, int]:
    """Of an update of a LLaMA's adapter that useful tokens need.

    A frozen weight is multiplied and added in the forward pass and for the gradient of its input, 4 operations a token;
    one of an adapter also for its own, 6. No token needs the last of a response, which predicts nothing; of the last
    layer's feed-forward network and of the projection onto the vocabulary only tokens that predict one of a response
    have need. In attention, each layer needs 12 x width for each key of a token, of which it has those up to itself.
    """
    before, after = gpu_run.lengths(table)
    rows, predicting = before + after - 1, int(after.sum())
    tokens, config = int(rows.sum()), model.config
    last = f".layers.{config.num_hidden_layers - 1}.mlp."
    found = {"base": 0, "adapter": 0}
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and ".layers." in name:
            kind, each = ("adapter", 6) if "lora_" in name else ("base", 4)
            found[kind] += each * weight.numel() * (predicting if last in name else tokens)
    keys = int((rows * (rows + 1) // 2).sum())
    return {
        **found,
        "projection": 4 * config.vocab_size * config.hidden_size * predicting,
        "attention": 12 * config.num_hidden_layers * config.hidden_size * keys,
    }
