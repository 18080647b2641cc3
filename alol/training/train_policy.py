"""Trains a policy from the reference with one of the algorithms: loads what the loop needs and runs it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from alol import rewards
from alol.algorithms import registry, sampling, selection
from alol.algorithms.offline import Algorithm
from alol.base.errors import ParameterError
from alol.base.files import write_json
from alol.base.work import Work
from alol.compute.progress import Progress
from alol.config.params import Params
from alol.data import schema
from alol.models import policies, trainable
from alol.models.policies import LoadedPolicy
from alol.rewards import Rewards
from alol.training import loop, planning, ppo, rollout, validation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Where a run finds what it needs: model folders, and Parquet tables.

    `advantages`: the training table. `prompts`: the training prompts, for algorithms that answer them. `baseline`: the
    reference's scored validation rollouts, the bar that a checkpoint has to beat.
    """

    reference: Path
    reward_model: Path
    advantages: Path
    prompts: Path
    baseline: Path


def train_policy(
    params: Params, inputs: Inputs, folder: Path | None, main: Accelerator, work: Work | None = None
) -> None:
    """Writes the trained policy and training.json into `folder` (None: this process only helps to train).

    `work`: where a run that is killed leaves what it has done, and this one goes on.
    """
    algorithm, settings = registry.get(params.algorithm), params.train
    hyperparameters = registry.checked(params.algorithm, params.hyperparameters)
    if settings.success != "reward" and settings.success.removeprefix("reward_") not in params.rewards:
        names = ", ".join(f"reward_{name}" for name in params.rewards)
        raise ParameterError("train.success", f"is '{settings.success}'; known: reward, {names}")
    policy = trainable.prepare(
        policies.load(inputs.reference, dropout=params.policy.dropout), params.policy, inputs.reference, params.seed
    )
    size = trainable.size(policy.model)  # before an algorithm puts the reference beside it
    if params.launch.recompute:
        trainable.recompute(policy.model)
    rows = schema.rows(inputs.baseline, schema.scored(schema.ROLLOUTS, params.rewards))
    encoder = policies.encoder(policy, params.policy)
    scorer = rewards.load(params.rewards, inputs.reward_model, params.launch) if main.is_main_process else None
    validate = validation.Validation(
        policy.model, encoder, rows, encoder.prompts(rows), scorer, params.reward, settings.success,
        params.generate, params.launch, params.seed, main,
    )  # fmt: skip
    checkpoints: dict[str, Any] = {
        "evaluate": validate,
        "keep": lambda: _keep(policy, validate.scored, params, folder) if folder is not None else None,
        "bar": validation.success(rows, settings.success, params.reward),
        "progress": Progress(work.of("train") if work is not None else None, main, folder),
    }
    if algorithm is None:
        history, plan, prompts = _online(params, hyperparameters, inputs, policy, scorer, main, checkpoints)
    else:
        history, plan, prompts = _from_data(params, algorithm, hyperparameters, inputs, policy, main, checkpoints)
    if folder is not None:
        result = {**size, "selected": history.selected, "discarded": plan.discarded, "updates": len(plan.draws)}
        epochs = settings.epochs or len(plan.draws) * settings.batch_size / prompts
        evaluations = [{**at, "epoch": at["update"] / len(plan.draws) * epochs} for at in history.validation]
        write_json(folder / "training.json", {**result, "validation": evaluations, "curve": history.curve})


def _keep(policy: LoadedPolicy, scored: list[dict[str, Any]], params: Params, folder: Path) -> None:
    """The checkpoint, and its scored responses to the validation prompts."""
    policies.save(policy, folder)
    schema.write(folder / "validation.parquet", schema.scored(schema.ROLLOUTS, params.rewards), scored)


def _from_data(
    params: Params,
    algorithm: Algorithm,
    hyperparameters: dict[str, Any],
    inputs: Inputs,
    policy: LoadedPolicy,
    main: Accelerator,
    checkpoints: dict[str, Any],
) -> tuple[loop.History, planning.Plan, int]:
    """What the run did, its plan, and how many examples an epoch has."""
    examples, plan = planning.plan(
        schema.table(inputs.advantages, schema.ADVANTAGES), algorithm, params.train, params.seed,
        shift_key="reward.shift",
    )  # fmt: skip
    if plan.warning and main.is_main_process:
        logger.warning("%s", plan.warning)
    history = loop.fit(
        policy.model, policy.tokenizer.pad_token_id, examples, plan, algorithm, hyperparameters,
        params.train.optimizer, params.launch, main, **checkpoints,
    )  # fmt: skip
    return history, plan, len(examples)


def _online(
    params: Params,
    hyperparameters: dict[str, Any],
    inputs: Inputs,
    policy: LoadedPolicy,
    scorer: Rewards | None,
    main: Accelerator,
    checkpoints: dict[str, Any],
) -> tuple[loop.History, planning.Plan, int]:
    """As many rollouts as the updates of the other algorithms, divided by `updates_per_rollout`."""
    settings = params.train
    selection.of(None, settings)
    options = ppo.Options(**hyperparameters)
    table, discarded = planning.selected(schema.table(inputs.advantages, schema.ADVANTAGES), settings.train_on)
    updates = sampling.run_length(settings.updates, settings.epochs, len(table), settings.batch_size, 1.0, "train")
    steps = updates // options.updates_per_rollout
    if not steps:
        raise ParameterError(
            f"algorithms.{params.algorithm}.updates_per_rollout",
            f"is {options.updates_per_rollout}, more than the run's {updates} updates; lower it",
        )
    prompts, encoder = rollout.prompt_rows(inputs.prompts), policies.encoder(policy, params.policy)
    trainer = ppo.Trainer(
        policy, trainable.frozen_logp(policy, inputs.reference), prompts,
        encoder.prompts(prompts), _scoring(params, scorer), options,
        settings.optimizer, params.generate, params.launch, main, params.seed, encoder.ends,
    )  # fmt: skip
    draws = sampling.draws(len(prompts), steps, settings.batch_size, params.seed)
    plan = planning.Plan(draws, sampling.evaluation_points(steps, settings.evaluations), discarded)
    return trainer.fit(plan, **checkpoints), plan, len(prompts)


def _scoring(params: Params, scorer: Rewards | None) -> Callable[[list[dict[str, Any]], list[str]], np.ndarray] | None:
    """The total reward of responses to prompt rows; None in the processes that have no reward models."""
    if scorer is None:
        return None

    def score(rows: list[dict[str, Any]], texts: list[str]) -> np.ndarray:
        prompts = [row["prompt"] for row in rows]
        scores = scorer.score(prompts, texts, schema.contexts(rows))
        return rewards.total(scores, params.reward.weights, params.reward.shift)

    return score
