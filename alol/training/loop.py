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
import pyarrow as pa
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from alol.algorithms import sampling
from alol.algorithms.offline import Algorithm
from alol.base.errors import InputError
from alol.compute.batching import Batch, chunks
from alol.compute.logprob import ResponseLogp
from alol.compute.progress import Progress
from alol.config.runs import check_warmup
from alol.config.sections import Launch, Optimizer, Train

ADVICE = "check what the reward's components compute, and their weights"


@dataclass(frozen=True)
class Plan:
    """What is drawn and when it is evaluated: `draws` [updates, batch] index `examples`.

    `warning`: why the run can teach little, where the rewards say so.
    """

    draws: Tensor
    points: list[int]
    discarded: float
    warning: str = ""


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


class Examples:
    """Columns of an Arrow table by row: token ids, `ref_logp`, `reward`, `advantage`."""

    responses = 1  # of one example

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()
        names = ("prompt_ids", "response_ids")
        self.lengths = sum(self.table[name].combine_chunks().value_lengths().to_numpy() for name in names)

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> np.ndarray:
        return self.table[name].to_numpy()

    def shaped(self, tokens: Tensor) -> Tensor:
        """Numbers of response tokens [B x responses, T] as the loss takes them."""
        return tokens

    def batch(self, rows: list[int], columns: tuple[str, ...], pad_id: int, device: torch.device) -> tuple[Batch, dict]:
        """A Batch of the rows and their `columns`: ref_logp [B, T], the others [B]."""
        chosen = self.table.take(pa.array(rows))
        batch = Batch(chosen["prompt_ids"].to_pylist(), chosen["response_ids"].to_pylist(), pad_id, device)
        extra = {name: torch.tensor(chosen[name].to_numpy(), device=device) for name in columns if name != "ref_logp"}
        if "ref_logp" in columns:
            values = [torch.tensor(row) for row in chosen["ref_logp"].to_pylist()]
            extra["ref_logp"] = nn.utils.rnn.pad_sequence(values, batch_first=True).to(device)
        return batch, extra


class Groups(Examples):
    """Prompts with all their responses by rank; K is the largest number of responses to a prompt.

    A Batch of B prompts has B x K rows. A response that a prompt lacks is one without a token: its mask is 0.
    """

    def __init__(self, table: pa.Table) -> None:
        super().__init__(table)
        members: dict[str, list[int]] = {}
        ranks, names = self.column("rank"), self.table["prompt_id"].to_pylist()
        for row, name in enumerate(names):
            members.setdefault(name, []).append(row)
        self.members = [sorted(rows, key=lambda row: ranks[row]) for rows in members.values() if len(rows) > 1]
        self.responses = max(map(len, self.members), default=1)
        longest = [max(self.lengths[row] for row in rows) for rows in self.members]
        self.lengths = np.array(longest) * self.responses

    def __len__(self) -> int:
        return len(self.members)

    def shaped(self, tokens: Tensor) -> Tensor:
        """[B x K, T] to [B, K, T]."""
        return tokens.view(-1, self.responses, tokens.shape[-1])

    def batch(self, rows: list[int], columns: tuple[str, ...], pad_id: int, device: torch.device) -> tuple[Batch, dict]:
        """A Batch of the prompts `rows` and their `columns`: ref_logp [B, K, T], the others [B, K]."""
        present = [k < len(self.members[i]) for i in rows for k in range(self.responses)]
        taken = [row for i in rows for row in self.members[i] + self.members[i][:1] * self._lacking(i)]
        chosen = self.table.take(pa.array(taken)).select(["prompt_ids", "response_ids", *columns]).to_pydict()
        prompts, responses = chosen.pop("prompt_ids"), chosen.pop("response_ids")
        responses = [ids if here else [] for ids, here in zip(responses, present, strict=True)]
        batch = Batch(prompts, responses, pad_id, device)
        shape = (len(rows), self.responses)
        extra = {
            name: torch.tensor(values, device=device).view(shape) * torch.tensor(present, device=device).view(shape)
            for name, values in chosen.items()
            if name != "ref_logp"
        }
        if "ref_logp" in columns:
            values = [torch.tensor(v if here else []) for v, here in zip(chosen["ref_logp"], present, strict=True)]
            extra["ref_logp"] = self.shaped(nn.utils.rnn.pad_sequence(values, batch_first=True).to(device))
        return batch, extra

    def _lacking(self, i: int) -> int:
        return self.responses - len(self.members[i])


def selected(table: pa.Table, train_on: str) -> tuple[pa.Table, float]:
    """The rows that `train_on` selects, and the share of them whose advantage is not above 0."""
    if train_on == "preferred":
        table = table.filter(pa.array(table["rank"].to_numpy() == 0))
    return table, float((table["advantage"].to_numpy() <= 0).mean())


def plan(table: pa.Table, algorithm: Algorithm, settings: Train, seed: int, *, shift_key: str) -> tuple[Examples, Plan]:
    """The examples that an algorithm trains on and the draws over them.

    `train_on` selects the ranks; advantage algorithms keep only A > 0, and `discarded` is the share of those rows
    that had none. Algorithms over groups take every prompt that has two responses or more, whatever `train_on` says.
    Raises InputError when nothing is left, or when a reward algorithm meets a negative reward (`shift_key` is the
    parameter to raise).
    """
    everything = table
    table, discarded = selected(table, settings.train_on)
    if algorithm.group:
        groups, warning = _groups(everything), _warning(everything, algorithm, settings.batch_size)
        return groups, _uniform(groups, settings, seed, discarded, warning)
    advantage = table["advantage"].to_numpy()
    rows, share, warning = len(table), 1.0, _warning(table, algorithm, settings.batch_size)
    if "reward" in algorithm.columns and (lowest := float(table["reward"].to_numpy().min())) < 0:
        raise InputError(
            f"this algorithm needs rewards >= 0, but the lowest is {lowest:.4g}; "
            f"raise {shift_key} by at least {-lowest:.4g}, or choose an advantage algorithm"
        )
    if algorithm.priority == "advantage":
        table = table.filter(pa.array(advantage > 0))
        share = 1.0 - discarded
        if not len(table):
            raise InputError(
                f"none of the {rows} training examples has a positive advantage: no reward is above V(x); "
                f"{warning or ADVICE}, or use an algorithm that does not filter (nll, wbc, r_gold, r_lol)"
            )
    weights = table[algorithm.priority].to_numpy() if algorithm.priority and settings.sampling == "priority" else None
    if weights is not None and not weights.sum() > 0:
        raise InputError(
            f"every training reward is 0: nothing to draw by; set train.sampling: uniform or raise {shift_key}"
        )
    kept = rows if weights is not None else len(table)
    why = f" ({warning})" if warning else f", of which {len(table)} have a reward above V(x)" if share < 1 else ""
    share = share if weights is not None else 1.0
    updates = sampling.run_length(settings.updates, settings.epochs, kept, settings.batch_size, share, "train", why)
    check_warmup(settings.optimizer, updates, "train")
    order = sampling.draws(len(table), updates, settings.batch_size, seed, weights)
    return Examples(table), Plan(order, sampling.evaluation_points(updates, settings.evaluations), discarded, warning)


def _warning(table: pa.Table, algorithm: Algorithm, batch_size: int) -> str:
    """Why the rewards of the rows can teach little: they are equal, or fewer than a batch count; else nothing."""
    rewards = table["reward"].to_numpy()
    if not len(rewards) or not {"reward", "raw_reward", "advantage"} & set(algorithm.columns):
        return ""
    if rewards.max() == rewards.min():
        number = f"{rewards[0]:.4g}"
        return f"all {len(rewards)} training rewards are {number}, so that they tell no example from another; {ADVICE}"
    above = int((table[algorithm.priority].to_numpy() > 0).sum()) if algorithm.priority else len(rewards)
    if 0 < above < min(batch_size, len(rewards)):
        bar = "V(x)" if algorithm.priority == "advantage" else "0"
        return (
            f"only {above} of the {len(rewards)} training rewards are above {bar}, the others teach nothing; {ADVICE}"
        )
    return ""


def _groups(table: pa.Table) -> Groups:
    groups = Groups(table)
    if not len(groups):
        raise InputError(
            f"this algorithm compares responses to one prompt, but none of the {len(table)} training rows has a "
            "second response to its prompt; give the source pairs (ranked responses), or choose an algorithm that "
            "learns from single responses (a_lol, wbc, nll, ...)"
        )
    return groups


def _uniform(examples: Examples, settings: Train, seed: int, discarded: float, warning: str) -> Plan:
    updates = sampling.run_length(settings.updates, settings.epochs, len(examples), settings.batch_size, 1.0, "train")
    check_warmup(settings.optimizer, updates, "train")
    order = sampling.draws(len(examples), updates, settings.batch_size, seed)
    return Plan(order, sampling.evaluation_points(updates, settings.evaluations), discarded, warning)


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
    model = model.to(main.device)
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
