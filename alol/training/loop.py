"""The training loop of the reference and of every offline algorithm; what differs is the loss, a value.

An update draws a global batch of examples, splits it over the processes and into micro-batches of similar length, and
takes one optimizer step on the mean loss. Checkpoints are chosen by a validation score, with the reference as the bar.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from alol.algorithms.offline import Algorithm
from alol.base.errors import InputError
from alol.compute.batching import chunks
from alol.compute.launch import placed
from alol.compute.logprob import ResponseLogp
from alol.compute.progress import Progress
from alol.config.sections import Launch, Optimizer
from alol.training.planning import Examples, Plan


@dataclass
class History:
    """What a run did: one entry of `curve` per update, one of `validation` per evaluation (update 0: the bar)."""

    curve: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    selected: int = 0


class Checkpoints:
    """Scores `model` while it trains and keeps the best: above `bar`, the reference's own score (-inf: it has none).

    A later one takes its place only when it is better by more than MARGIN: how sequences are batched moves scores by
    less, and the choice must not hang on that.
    """

    MARGIN = 1e-4

    def __init__(self, model: nn.Module, evaluate: Callable[[], float], keep: Callable[[], None], bar: float) -> None:
        self._model, self._evaluate, self._keep, self._best = model, evaluate, keep, bar
        self._evaluated = False
        self.history = History(validation=[{"update": 0, "reward": bar}] if np.isfinite(bar) else [])

    def score(self, update: int) -> None:
        """Evaluates the model as it is after `update`, and keeps it when none before was as good."""
        score = self._score()
        self.history.validation.append({"update": update, "reward": score})
        if score > self._best + self.MARGIN:
            self._best, self.history.selected = score, 1
            self._keep()

    def _score(self) -> float:
        self._model.eval()
        self._evaluated = True
        return self._evaluate()

    def finish(self) -> History:
        """What the run did; the last model is kept when none was above the bar, and `selected` stays 0."""
        if not self.history.selected:
            if not self._evaluated:  # by the process that went on only: what is kept includes what was evaluated
                self._score()
            self._keep()
        return self.history

    def scored(self, update: int) -> bool:
        """Whether the model after `update` has been evaluated."""
        return bool(self.history.validation) and self.history.validation[-1]["update"] == update

    def state(self) -> dict[str, Any]:
        """What `go_on` takes: plain values."""
        best = self._best if np.isfinite(self._best) else None
        return {"history": dataclasses.asdict(self.history), "best": best}

    def go_on(self, state: dict[str, Any]) -> None:
        """Takes up what a run before has done."""
        self.history = History(**state["history"])
        self._best = float("-inf") if state["best"] is None else state["best"]


def make_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """AdamW over the parameters that are trained, or bitsandbytes' paged AdamW with 32-bit state."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options: dict[str, Any] = {
        "lr": settings.lr,
        "betas": tuple(settings.betas),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }
    if settings.name == "paged_adamw_32bit":
        from bitsandbytes.optim import PagedAdamW32bit

        return PagedAdamW32bit(parameters, **options)
    return torch.optim.AdamW(parameters, fused=True, **options)


def make_schedule(optimizer: torch.optim.Optimizer, settings: Optimizer, updates: int) -> LambdaLR:
    """The learning rate over a run: a linear warm-up, then constant, or falling to 0 in a line or half a cosine.

    Ours because transformers' own brings peft and bitsandbytes with its import, a second at every start.
    """
    shapes: dict[str, Callable[[float], float]] = {
        "constant": lambda done: 1.0,
        "linear": lambda done: 1.0 - done,
        "cosine": lambda done: 0.5 + 0.5 * math.cos(math.pi * done),
    }

    def share(step: int) -> float:
        if step < settings.warmup:
            return step / settings.warmup
        return shapes[settings.schedule](min(1.0, (step - settings.warmup) / max(1, updates - settings.warmup)))

    return LambdaLR(optimizer, share)


def fit(
    model: nn.Module,
    pad_id: int,
    examples: Examples,
    run: Plan,
    algorithm: Algorithm,
    hyperparameters: dict[str, float | None],
    optimizer_settings: Optimizer,
    launch: Launch,
    main: Accelerator,
    *,
    evaluate: Callable[[], float],
    keep: Callable[[], None],
    bar: float,
    progress: Progress | None = None,
) -> History:
    """Trains `model` in place and calls `keep` at every checkpoint whose `evaluate()` is above the best so far.

    The best starts at `bar` (the reference's own score). When none is above it, `keep` is called once at the end and
    `selected` stays 0. The loss is the mean over the global batch, whatever the micro-batches and processes.
    `progress` says where an earlier run was killed, and takes down how far this one comes.
    """
    placed(model, main, trained=True)
    scorer: nn.Module = main.prepare(ResponseLogp(model))
    optimizer = make_optimizer(model, optimizer_settings)
    scheduler = make_schedule(optimizer, optimizer_settings, len(run.draws))
    checkpoints = Checkpoints(model, evaluate, keep, bar)
    step = Step(scorer, pad_id, examples, algorithm, hyperparameters, launch, main)
    for update, rows, shown in steps_of(
        run, "update", model, optimizer, scheduler, checkpoints, progress or Progress(None), main
    ):
        model.train()
        entry = step(rows)
        if optimizer_settings.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(model.parameters(), optimizer_settings.clip_norm)
            entry["grad_norm"] = float(norm)
        entry |= {"update": update, "lr": scheduler.get_last_lr()[0]}
        if not np.isfinite(entry["loss"]):
            raise InputError(f"the loss is {entry['loss']} at update {update}; lower the optimizer's lr")
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        checkpoints.history.curve.append(entry)
        shown.set_postfix(loss=f"{entry['loss']:.3f}", refresh=False)
    return checkpoints.finish()


def steps_of(
    run: Plan,
    unit: str,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
    checkpoints: Checkpoints,
    progress: Progress,
    main: Accelerator,
    *,
    state: Callable[[], dict[str, Any]] = dict,
    go_on: Callable[[dict[str, Any]], None] = lambda state: None,
) -> Iterator[tuple[int, Tensor, tqdm]]:
    """The steps of a run that are left: number, drawn examples [batch], and the bar, on which the caller may show more.

    What was done before is put back at the start, with `go_on` for what the caller has beside, its plain `state`. After
    each step come the evaluation that the plan has there, and the writing when it is time.
    """
    done = 0
    if found := progress.restore(module, optimizer):
        values, _ = found
        done = values["step"]
        schedule.load_state_dict(values["schedule"])
        checkpoints.go_on(values["checkpoints"])
        go_on(values["caller"])

    def write(step: int) -> None:
        values = {"step": step, "schedule": schedule.state_dict(), "checkpoints": checkpoints.state()}
        progress.write(module, optimizer, {**values, "caller": state()})

    if done in run.points and not checkpoints.scored(done):
        checkpoints.score(done)
    total, shown = len(run.draws), main.is_main_process
    bar = tqdm(run.draws[done:], desc="train", unit=unit, initial=done, total=total, disable=not shown)
    for step, rows in enumerate(bar, start=done + 1):
        yield step, rows, bar
        if progress.due():
            write(step)
        if step in run.points:
            checkpoints.score(step)
            if progress.due(last=step == total):
                write(step)


@dataclass(frozen=True)
class Step:
    """Gradients of one update's mean loss, accumulated over micro-batches and summed over the processes."""

    scorer: nn.Module
    pad_id: int
    examples: Examples
    algorithm: Algorithm
    hyperparameters: dict[str, float | None]
    launch: Launch
    main: Accelerator

    def __call__(self, rows: Tensor) -> dict[str, float]:
        """Leaves the gradient of the global batch `rows` [B] on the model; returns the mean loss and log-ratios."""
        order = sorted(rows.tolist(), key=lambda i: -self.examples.lengths[i])
        mine = order[self.main.process_index :: self.main.num_processes]
        limit = max(1, self.launch.micro_batch // self.examples.responses)
        parts = chunks([int(self.examples.lengths[i]) for i in mine], limit, self.launch.tokens)
        sums = torch.zeros(3, dtype=torch.float64)
        for k, part in enumerate(parts):
            last = k == len(parts) - 1
            with self.main.no_sync(self.scorer) if not last else contextlib.nullcontext():
                sums += self._micro_batch([mine[i] for i in part], len(rows))
        loss, log_ratio, absolute = self.main.reduce(sums.to(self.main.device).float(), reduction="sum").tolist()
        entry = {"loss": loss / len(rows)}
        if "ref_logp" in self.algorithm.columns:
            entry |= {"log_ratio": log_ratio / len(rows), "abs_log_ratio": absolute / len(rows)}
        return entry

    def _micro_batch(self, rows: list[int], global_batch: int) -> Tensor:
        columns = self.algorithm.columns
        batch, extra = self.examples.batch(rows, columns, self.pad_id, self.main.device)
        logp, mask = (self.examples.shaped(x) for x in (self.scorer(batch), batch.response_mask))
        losses = self.algorithm.loss(logp=logp, mask=mask, **extra, **self.hyperparameters)
        # distributed training averages gradients over the processes, each of which holds a part of the batch
        self.main.backward(losses.sum() * self.main.num_processes / global_batch)
        ratio = ((logp.detach() - extra["ref_logp"]) * mask).sum(-1) if "ref_logp" in columns else losses.detach() * 0
        ratio = ratio / self.examples.responses
        return torch.stack([losses.detach().sum(), ratio.sum(), ratio.abs().sum()]).double().cpu()
