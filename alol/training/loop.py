"""The training loop of the reference and of every offline algorithm; what differs is the loss, a value.

An update draws a global batch of examples, splits it over the processes and into micro-batches of similar length, and
takes one optimizer step on the mean loss. Gradients are summed over the processes once an update, so these may have
different numbers of micro-batches, or none. Checkpoints are chosen by a validation score; the reference is the bar.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from alol.algorithms.offline import Algorithm
from alol.base.errors import InputError
from alol.compute.batching import chunks, share
from alol.compute.dtensors import whole
from alol.compute.launch import Machine, placed, prepared, sum_gradients
from alol.compute.logprob import ResponseLogp
from alol.compute.progress import Progress
from alol.compute.sharding import evened, gathered, shard
from alol.config.sections import Optimizer
from alol.training.planning import Examples, Plan


@dataclass
class History:
    """What a run did: one entry of `curve` per update, one of `validation` per evaluation (update 0: the bar)."""

    curve: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    selected: int = 0


@dataclass(frozen=True)
class Checkpointing:
    """How checkpoints are scored and the best one is kept, and where the state of the run is stored.

    `evaluate` gives the score of the model as it is. `keep` stores the model. All processes call both. `bar` is the
    reference's own score, which a checkpoint has to beat (-inf: there is none). `progress` restores and writes the
    state of the run.
    """

    evaluate: Callable[[], float]
    keep: Callable[[], None]
    bar: float
    progress: Progress = field(default_factory=lambda: Progress(None))


class Stateful(Protocol):
    """An object whose state, plain values, is stored and restored with that of the run."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class BestCheckpoint:
    """Scores `model` while it trains and keeps the best checkpoint, if it is above the bar.

    A later checkpoint replaces the best one only when it is better by more than MARGIN: how sequences are batched moves
    scores by less, and the choice must not depend on that.
    """

    MARGIN = 1e-4

    def __init__(self, model: nn.Module, rules: Checkpointing) -> None:
        self._model, self._rules, self._best = model, rules, rules.bar
        self._evaluated = False
        self.history = History(validation=[{"update": 0, "reward": rules.bar}] if np.isfinite(rules.bar) else [])

    @property
    def progress(self) -> Progress:
        return self._rules.progress

    def score(self, update: int) -> None:
        """Evaluates the model as it is after `update`, and keeps it if it is the best so far."""
        score = self._score()
        self.history.validation.append({"update": update, "reward": score})
        if score > self._best + self.MARGIN:
            self._best, self.history.selected = score, 1
            self._rules.keep()

    def _score(self) -> float:
        self._model.eval()
        self._evaluated = True
        with gathered(self._model):
            return self._rules.evaluate()

    def finish(self) -> History:
        """Returns what the run did. If no checkpoint was above the bar, the last model is kept; `selected` stays 0."""
        if not self.history.selected:
            if not self._evaluated:  # a killed run did that; what is kept includes the answers of an evaluation
                self._score()
            self._rules.keep()
        return self.history

    def scored(self, update: int) -> bool:
        """Whether the model after `update` has been evaluated."""
        return bool(self.history.validation) and self.history.validation[-1]["update"] == update

    def state_dict(self) -> dict[str, Any]:
        best = self._best if np.isfinite(self._best) else None
        return {"history": dataclasses.asdict(self.history), "best": best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
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


@dataclass(frozen=True)
class Recipe:
    """How an update is made: the algorithm (its loss), its hyperparameters, and the settings of the optimizer."""

    algorithm: Algorithm
    hyperparameters: dict[str, float | None]
    optimizer: Optimizer


def fit(
    model: nn.Module,
    examples: Examples,
    plan: Plan,
    recipe: Recipe,
    machine: Machine,
    checkpointing: Checkpointing,
) -> History:
    """Trains `model` in place and keeps the best checkpoint.

    The loss is the mean over the global batch, whatever the micro-batches and processes. A checkpoint is kept when its
    score is above the bar and above all before it. If there is none, the last model is kept and `selected` stays 0.
    """
    placed(model, machine.accelerator, trained=True)
    scorer = shard(prepared(ResponseLogp(model), machine.accelerator), machine)
    optimizer = make_optimizer(model, recipe.optimizer)
    scheduler = make_schedule(optimizer, recipe.optimizer, len(plan.draws))
    best, step = BestCheckpoint(scorer, checkpointing), Step(scorer, examples, recipe, machine)
    learner = Learner(model, optimizer, scheduler)
    for update, rows, bar in remaining_steps(plan, learner, best, machine.accelerator, unit="update"):
        model.train()
        entry = step(rows)
        if recipe.optimizer.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip_norm)
            entry["grad_norm"] = float(whole(norm))
        entry |= {"update": update, "lr": scheduler.get_last_lr()[0]}
        if not np.isfinite(entry["loss"]):
            raise InputError(f"the loss is {entry['loss']} at update {update}; lower the optimizer's lr")
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        best.history.curve.append(entry)
        bar.set_postfix(loss=f"{entry['loss']:.3f}", refresh=False)
    return best.finish()


@dataclass(frozen=True)
class Learner:
    """What a run changes and a killed run restores: the trained weights, the optimizer and the schedule."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR


def remaining_steps(
    plan: Plan,
    learner: Learner,
    best: BestCheckpoint,
    accelerator: Accelerator,
    *,
    unit: str,
    caller: Stateful | None = None,
) -> Iterator[tuple[int, Tensor, tqdm]]:
    """Yields the steps of a run that are still to do: number, drawn examples [batch], and the progress bar (in `unit`).

    If an earlier run was killed, its state is restored first: of the learner, of `best`, and of the `caller`, if that
    has a state of its own. After each step the model is evaluated where the plan says so, and the state is written
    when it is time.
    """
    done, progress = 0, best.progress
    if restored := progress.restore(learner.module, learner.optimizer):
        values, _ = restored
        done = values["step"]
        learner.schedule.load_state_dict(values["schedule"])
        best.load_state_dict(values["checkpoints"])
        if caller is not None:
            caller.load_state_dict(values["caller"])

    def write(step: int) -> None:
        values = {
            "step": step,
            "schedule": learner.schedule.state_dict(),
            "checkpoints": best.state_dict(),
            "caller": caller.state_dict() if caller is not None else {},
        }
        progress.write(learner.module, learner.optimizer, values)

    if done in plan.points and not best.scored(done):
        best.score(done)
    total, shown = len(plan.draws), accelerator.is_main_process
    bar = tqdm(range(done, total), desc="train", unit=unit, initial=done, total=total, disable=not shown)
    for step in (i + 1 for i in bar):  # a tensor would be taken apart into all of its rows first
        yield step, plan.draws[step - 1], bar
        if progress.due():
            write(step)
        if step in plan.points:
            best.score(step)
            if progress.due(last=step == total):
                write(step)


@dataclass(frozen=True)
class Step:
    """Gradients of one update's mean loss, accumulated over micro-batches and summed over the processes."""

    scorer: nn.Module
    examples: Examples
    recipe: Recipe
    machine: Machine

    def __call__(self, rows: Tensor) -> dict[str, float]:
        """Leaves the gradient of the global batch `rows` [B] on the model; returns the mean loss and log-ratios."""
        accelerator, launch = self.machine.accelerator, self.machine.launch
        every, lengths = rows.tolist(), [int(self.examples.lengths[i]) for i in rows]
        mine = share(lengths, accelerator.num_processes, accelerator.process_index)
        limit = max(1, launch.micro_batch // self.examples.responses)
        parts = chunks([lengths[i] for i in mine], limit, launch.tokens)
        sums = torch.zeros(3, dtype=torch.float64)
        parts = [[every[mine[i]] for i in part] for part in parts]
        for part, weight in evened(parts, every, self.machine):
            sums += weight * self._micro_batch(part, weight / len(rows))
        if not self.machine.sharded:
            sum_gradients(self.scorer, accelerator)
        loss, log_ratio, absolute = accelerator.reduce(sums.to(accelerator.device).float(), reduction="sum").tolist()
        entry = {"loss": loss / len(rows)}
        if "ref_logp" in self.recipe.algorithm.columns:
            entry |= {"log_ratio": log_ratio / len(rows), "abs_log_ratio": absolute / len(rows)}
        return entry

    def _micro_batch(self, rows: list[int], weight: float) -> Tensor:
        accelerator, algorithm = self.machine.accelerator, self.recipe.algorithm
        batch, columns = self.examples.batch(rows, algorithm.columns, accelerator.device)
        logp, mask = (self.examples.shaped(x) for x in (self.scorer(batch), batch.response_mask))
        losses = algorithm.loss(logp=logp, mask=mask, **columns, **self.recipe.hyperparameters)
        accelerator.backward(losses.sum() * weight)
        ratio = losses.detach() * 0
        if "ref_logp" in columns:
            ratio = ((logp.detach() - columns["ref_logp"]) * mask).sum(-1)
        ratio = ratio / self.examples.responses
        return torch.stack([losses.detach().sum(), ratio.sum(), ratio.abs().sum()]).double().cpu()
