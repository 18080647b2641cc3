"""The value V(x) of the reference policy: a small head on its frozen prompt states, fitted to its own rewards.

The head itself is in `value_head`; after fitting it is used in evaluation mode only.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from alol.base.errors import InputError, ParameterError
from alol.base.files import replacing, write_json
from alol.base.work import Work
from alol.compute.launch import Machine
from alol.compute.progress import Progress
from alol.config import paths
from alol.config.params import Params
from alol.config.sections import Value
from alol.data import schema
from alol.data.parts import SECONDS
from alol.models import policies
from alol.models.policies import LoadedPolicy
from alol.rewards import bounds
from alol.training import value_head
from alol.training.value_head import Bounds, ValueHead, predict, stack, states_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """The error of held-out values against the mean reward of `answers` sampled answers to each prompt.

    `mse` and `mse_constant` (of the best constant) both contain `noise`, what the mean of so few answers is off by:
    their variance within a prompt (denominator answers - 1) over their number, averaged over the prompts.
    """

    answers: int
    mse: float
    mse_constant: float
    noise: float

    @property
    def learnable(self) -> float:
        """What V could still learn: an unbiased estimate of E (V(x) - E[R | x])^2, which by chance may be below 0."""
        return self.mse - self.noise


@dataclass(frozen=True)
class Fit:
    """A fitted head and its held-out error: `values` [N] are predictions for prompts that the head did not see.

    `rewards` [N] is what it was fitted to, a prompt's mean over `answers` answers.
    """

    head: ValueHead
    epochs: int
    mse: float
    mse_constant: float
    values: np.ndarray
    rewards: np.ndarray
    prompt_ids: list[str]
    answers: int = 1
    judged: Judged | None = None


def from_rollouts(
    policy: LoadedPolicy, folder: Path, params: Params, accelerator: Accelerator, work: Work | None = None
) -> Fit:
    """Fits V(x) to the scored rollouts of the reference `policy` on the validation prompts (data/baselines/<task>).

    With sampled answers it is fitted to their mean: the squared error to each of k answers is that to their mean, plus
    the variance within the prompt, which V does not change. All prompts have k answers, so all weigh alike.
    `work`: where a run that is killed leaves what it has done, and this one goes on.
    """
    table, asked = f"{schema.VALIDATION}.parquet", params.generate.rollout
    rows = schema.rows(folder / table, schema.scored(schema.ROLLOUTS, params.reward.weights))
    rewards, answers = total_rewards(rows, params), np.empty((len(rows), 0))
    if asked.drawn:
        answers = sampled_rewards(paths.samples(folder) / table, rows, params)
    if asked.samples:
        rewards = answers[:, : asked.samples].mean(1)
    prompts = policies.encoder(policy, params.policy).prompts(rows)
    model, pad_id = policy.model.to(accelerator.device), policy.tokenizer.pad_token_id
    machine, stored = Machine(accelerator, params.launch), work.of("states") if work is not None else None
    states = collect_states(model, prompts, pad_id, machine, params.value.part_rows, stored)
    limits = bounds(params.rewards, params.reward.weights, params.reward.shift)
    progress = Progress(work.of("fit") if work is not None else None, accelerator)
    result = fit(states, rewards, params.value, limits, [row["prompt_id"] for row in rows], progress)
    judged = judge(result.values, answers[:, : asked.judge_samples], params.value) if asked.judged else None
    return dataclasses.replace(result, answers=max(1, asked.samples), judged=judged)


def total_rewards(rows: Sequence[dict[str, Any]], params: Params) -> np.ndarray:
    """R of each scored row."""
    return np.array([schema.total_reward(row, params.reward.weights, params.reward.shift) for row in rows])


def sampled_rewards(path: Path, rows: Sequence[dict[str, Any]], params: Params) -> np.ndarray:
    """R [N, generate.rollout.drawn] of the sampled answers to the prompts of `rows`.

    Raises InputError where the table does not have so many for each.
    """
    samples = schema.rows(path, schema.scored(schema.SAMPLES, params.reward.weights))
    count = params.generate.rollout.drawn
    expected = [(number, row["prompt_id"]) for number in range(count) for row in rows]
    if [(row["sample"], row["prompt_id"]) for row in samples] != expected:
        raise InputError(f"{path} does not hold {count} answers to each validation prompt, in order; run `dvc repro`")
    return total_rewards(samples, params).reshape(count, len(rows)).T


def judge(values: np.ndarray, answers: np.ndarray, settings: Value) -> Judged:
    """The error of held-out values [N] against the means of the rewards [N, n] of n >= 2 sampled answers.

    The best constant of a fold's prompts is the mean over the other folds. V may have been fitted to the same answers:
    of a prompt that is held out, its head saw none.
    """
    count, size = answers.shape
    means, fold = answers.mean(1), folds_of(count, settings)
    constant = constants(means, fold, settings.folds)
    noise = (answers.var(1, ddof=1) / size).mean()
    return Judged(size, float(((values - means) ** 2).mean()), float(((constant - means) ** 2).mean()), float(noise))


def folds_of(count: int, settings: Value) -> np.ndarray:
    """The fold [N] in which each prompt is held out."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed)).numpy() % settings.folds


def constants(rewards: np.ndarray, fold: np.ndarray, folds: int) -> np.ndarray:
    """For each prompt the mean reward [N] of the other folds."""
    result = np.empty(len(rewards))
    for k in range(folds):
        result[fold == k] = rewards[fold != k].mean()
    return result


@torch.no_grad()
def collect_states(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    pad_id: int,
    machine: Machine,
    part_rows: int,
    work: Work | None = None,
) -> list[Tensor]:
    """Computes the last hidden states of each prompt (token ids): a list of [length, H] on the CPU.

    `part_rows` prompts are run together. `work` stores their states where that takes little time beside.
    """
    states = _stored(work)
    governor, kept = work.governor(SECONDS) if work is not None else None, len(states)
    with tqdm(total=len(prompts), initial=kept, desc="prompt states", unit="prompt", leave=False) as bar:
        for start in range(kept, len(prompts), part_rows):
            piece = prompts[start : start + part_rows]
            states += states_of(model, piece, pad_id, machine)
            bar.update(len(piece))
            size = sum(row.numel() * row.element_size() for row in states[kept:])
            if work is not None and governor is not None and governor.due(size):
                with governor.writing(size), replacing(work.folder / f"{kept:09d}.safetensors") as file:
                    save_file({f"{i:09d}": states[i] for i in range(kept, len(states))}, file)
                kept = len(states)
    return states


def _stored(work: Work | None) -> list[Tensor]:
    """Loads the states of the first prompts that a killed run has stored."""
    states: list[Tensor] = []
    while work is not None and (file := work.folder / f"{len(states):09d}.safetensors").exists():
        states += [tensor for _, tensor in sorted(load_file(file).items())]
    return states


def fit(
    states: Sequence[Tensor],
    rewards: np.ndarray,
    settings: Value,
    bounds: Bounds,
    prompt_ids: list[str],
    progress: Progress | None = None,
) -> Fit:
    """Fits the head to the rewards [N] of the reference's own responses, one a prompt (mean squared error).

    The number of epochs comes from cross-validation: each fold's error is measured after every epoch (and before the
    first) by a head that did not see it. Each fold's reported error is at the number of epochs that the other folds
    choose, so it is held out from that choice too; the final head trains on all prompts. `progress` says where an
    earlier run was killed, and on which device the heads are trained; the fitted one is on the CPU. Raises InputError
    when there are fewer prompts than folds.
    """
    count, folds = len(states), settings.folds
    if count < 2 * folds:
        raise ParameterError(
            "value.folds", f"is {folds}, but the {count} validation prompts must give 2 a fold; lower it"
        )
    if rewards.max() == rewards.min():
        logger.warning(
            "all %d rewards of the reference's answers are %.4g, so that V(x) is this number; "
            "check what the reward's components compute, and their weights", len(rewards), rewards[0],
        )  # fmt: skip
    fold = folds_of(count, settings)
    predictions = np.zeros((settings.epochs + 1, count))
    constant = constants(rewards, fold, folds)
    progress = progress or Progress(None)
    first = 0
    if stored := progress.stored():
        first = stored[0]["head"]
        predictions[:] = stored[1]["predictions"].numpy()
    training = _Training(states, rewards, settings, bounds, predictions, progress, first)
    for k in tqdm(range(first, folds), desc="value folds", unit="fold", initial=first, total=folds, leave=False):
        training.run(k, np.flatnonzero(fold != k), np.flatnonzero(fold == k), settings.epochs)
    errors = (predictions - rewards) ** 2  # [epochs + 1, N]
    curve = np.stack([errors[:, fold == k].sum(1) for k in range(folds)])  # [folds, epochs + 1]
    values = np.empty(count)
    for k in range(folds):
        best = int(np.delete(curve, k, axis=0).sum(0).argmin())
        values[fold == k] = predictions[best, fold == k]
    epochs = int(curve.sum(0).argmin())
    head = training.run(folds, np.arange(count), np.arange(0), epochs)
    mse, mse_constant = ((values - rewards) ** 2).mean(), ((constant - rewards) ** 2).mean()
    return Fit(head.cpu().eval(), epochs, float(mse), float(mse_constant), values, rewards, prompt_ids)


@dataclass(frozen=True)
class _Training:
    """Trains the heads of the folds, one after the other, and then the final one.

    Each head writes what it predicts for its fold into `predictions` [epochs + 1, N]. An earlier run was killed while
    it trained head number `first`.
    """

    states: Sequence[Tensor]
    rewards: np.ndarray
    settings: Value
    bounds: Bounds
    predictions: np.ndarray
    progress: Progress
    first: int

    def run(self, k: int, seen: np.ndarray, held: np.ndarray, epochs: int) -> ValueHead:
        """Trains head `k` on the prompts `seen`; after each epoch it predicts the values of the prompts `held` out."""
        settings = self.settings
        torch.manual_seed(settings.seed)
        head = ValueHead(self.states[0].shape[-1], settings.heads, settings.dropout, settings.head, self.bounds)
        head.start_at(float(self.rewards[seen].mean()), constant=settings.start == "constant")
        head.to(self.progress.device)
        generator = torch.Generator().manual_seed(settings.seed)
        optimizer = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        done = 0
        if k == self.first and (restored := self.progress.restore(head, optimizer)):
            done = restored[0]["epoch"]
            generator.set_state(restored[1]["generator"])
        else:
            self._predict(0, head, held)
        mine, target = [self.states[i] for i in seen], torch.as_tensor(self.rewards[seen], dtype=torch.float32)
        target = target.to(self.progress.device)
        for epoch in range(done + 1, epochs + 1):
            _epoch(head, mine, target, optimizer, generator, settings.batch_size)
            self._predict(epoch, head, held)
            if self.progress.due():
                own = {"predictions": torch.from_numpy(self.predictions), "generator": generator.get_state()}
                self.progress.write(head, optimizer, {"head": k, "epoch": epoch}, own)
        return head

    def _predict(self, epoch: int, head: ValueHead, held: np.ndarray) -> None:
        if len(held):
            predicted = predict(head, [self.states[i] for i in held], self.settings.batch_size)
            self.predictions[epoch, held] = predicted


def save(result: Fit, folder: Path, settings: Value) -> None:
    """Writes the head, and its values of prompts that were held out."""
    folder.mkdir(parents=True, exist_ok=True)
    value_head.save(result.head, folder, settings, result.epochs)
    heldout = {"prompt_id": result.prompt_ids, "value": result.values.tolist(), "reward": result.rewards.tolist()}
    write_json(folder / "heldout.json", heldout)


def save_error(result: Fit, path: Path) -> None:
    """The held-out error, beside that of the best constant; with sampled answers, how they judge it too."""
    errors: dict[str, float] = {"value_mse": result.mse, "value_mse_constant": result.mse_constant}
    if (judged := result.judged) is not None:
        errors |= {
            "value_judged_mse": judged.mse,
            "value_judged_mse_constant": judged.mse_constant,
            "value_noise": judged.noise,
            "value_learnable": judged.learnable,
            "judge_samples": judged.answers,
        }
    rollouts = len(result.rewards) * result.answers
    write_json(path, {**errors, "rollouts": rollouts, "epochs": result.epochs})


def _epoch(
    head: ValueHead,
    states: list[Tensor],
    target: Tensor,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    batch_size: int,
) -> None:
    head.train()
    order = torch.randperm(len(states), generator=generator)
    for rows in order.split(batch_size):
        predicted = head(*stack([states[i] for i in rows], target.device))
        loss = ((predicted - target[rows.to(target.device)]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
