"""Trains a policy from the reference with one of the algorithms: loads what the loop needs and runs it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from accelerate import Accelerator

from alol import rewards
from alol.algorithms import registry, sampling, selection
from alol.algorithms.offline import Algorithm
from alol.base.errors import ParameterError
from alol.base.files import write_json
from alol.base.work import Work
from alol.compute.generate import Decoding
from alol.compute.launch import Machine
from alol.compute.progress import Progress
from alol.config.params import Params
from alol.config.runs import check_shards
from alol.data import row_store, schema
from alol.data.row_store import Place, Source
from alol.models import policies, trainable
from alol.models.policies import LoadedPolicy
from alol.models.tokens import Encoder
from alol.rewards import Rewards
from alol.training import loop, planning, ppo, validation

IDS = schema.ADVANTAGES.field("prompt_ids")
PROMPT = ["rank", *(name for name in schema.ROLLOUTS.names if name != "response")]  # what an answer is scored by

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
    params: Params, inputs: Inputs, folder: Path | None, accelerator: Accelerator, work: Work | None = None
) -> None:
    """Writes the trained policy and training.json into `folder` (None: this process only helps to train).

    `work`: where a run that is killed leaves what it has done, and this one goes on.
    """
    algorithm, settings = registry.get(params.algorithm), params.train
    hyperparameters = registry.checked(params.algorithm, params.hyperparameters)
    selection.check_columns(algorithm, params.generate.rollout.train_samples)
    if settings.success != "reward" and settings.success.removeprefix("reward_") not in params.rewards:
        names = ", ".join(f"reward_{name}" for name in params.rewards)
        raise ParameterError("train.success", f"is '{settings.success}'; known: reward, {names}")
    check_shards(params.launch, params.policy.tuning, settings.optimizer, "train")
    policy = trainable.prepare(
        policies.load(inputs.reference, dropout=params.policy.dropout), params.policy, inputs.reference, params.seed
    )
    size = trainable.size(policy.model)  # before an algorithm puts the reference beside it
    if params.launch.recompute:
        trainable.recompute(policy.model)
    rows = schema.rows(inputs.baseline, schema.scored(schema.ROLLOUTS, params.rewards))
    encoder, machine = policies.encoder(policy, params.policy), Machine(accelerator, params.launch)
    components = (
        rewards.load(params.rewards, inputs.reward_model, params.launch) if accelerator.is_main_process else None
    )
    scorer = validation.Scorer(components, params.reward, settings.success)
    decoding = Decoding(params.generate, params.seed, encoder.ends, "validate")
    validate = validation.Validation(policy, rows, encoder.prompts(rows), scorer, decoding, machine)
    checkpointing = loop.Checkpointing(
        evaluate=validate,
        keep=lambda: _keep(policy, validate.scored, params, folder),
        bar=validation.success(rows, settings.success, params.reward),
        progress=Progress(work.of("train") if work is not None else None, accelerator, folder),
    )
    advantages = Source.parquet(inputs.advantages, Place(work.folder if work is not None else None, accelerator))
    run = _Run(params, inputs, advantages, policy, hyperparameters, machine, checkpointing)
    history, plan, prompts = _online(run, components) if algorithm is None else _from_data(run, algorithm)
    if folder is not None:
        result = {**size, "selected": history.selected, "discarded": plan.discarded, "updates": len(plan.draws)}
        epochs = settings.epochs or len(plan.draws) * settings.batch_size / prompts
        evaluations = [{**at, "epoch": at["update"] / len(plan.draws) * epochs} for at in history.validation]
        write_json(folder / "training.json", {**result, "validation": evaluations, "curve": history.curve})


def _keep(policy: LoadedPolicy, scored: list[dict[str, Any]], params: Params, folder: Path | None) -> None:
    """Writes the checkpoint, and its scored responses to the validation prompts."""
    policies.save(policy, folder)
    if folder is None:
        return
    schema.write(folder / "validation.parquet", schema.scored(schema.ROLLOUTS, params.rewards), scored)


@dataclass(frozen=True)
class _Run:
    """What training needs, whether the algorithm learns from data or from its own answers."""

    params: Params
    inputs: Inputs
    advantages: Source
    policy: LoadedPolicy
    hyperparameters: dict[str, Any]
    machine: Machine
    checkpointing: loop.Checkpointing


def _from_data(run: _Run, algorithm: Algorithm) -> tuple[loop.History, planning.Plan, int]:
    """Trains on the advantage table; returns what the run did, its plan, and how many examples an epoch has."""
    settings, pad_id = run.params.train, run.policy.tokenizer.pad_token_id
    examples, plan = planning.plan(run.advantages, algorithm, settings, run.params.seed, pad_id)
    if plan.warning and run.machine.accelerator.is_main_process:
        logger.warning("%s", plan.warning)
    recipe = loop.Recipe(algorithm, run.hyperparameters, settings.optimizer)
    return loop.fit(run.policy.model, examples, plan, recipe, run.machine, run.checkpointing), plan, len(examples)


def _online(run: _Run, components: Rewards | None) -> tuple[loop.History, planning.Plan, int]:
    """Trains with PPO: as many rollouts as the updates of the other algorithms, divided by `updates_per_rollout`.

    Returns what the run did, its plan, and how many prompts an epoch has.
    """
    params, settings, policy = run.params, run.params.train, run.policy
    selection.of(None, settings)
    options = ppo.Options(**run.hyperparameters)
    _, numbers, discarded = planning.selected(run.advantages, settings.train_on)
    count = len(numbers["advantage"])
    updates = sampling.run_length(settings.updates, settings.epochs, count, settings.batch_size, 1.0, "train")
    steps = updates // options.updates_per_rollout
    if not steps:
        raise ParameterError(
            f"algorithms.{params.algorithm}.updates_per_rollout",
            f"is {options.updates_per_rollout}, more than the run's {updates} updates; lower it",
        )
    encoder, path = policies.encoder(policy, params.policy), run.inputs.prompts
    rows = row_store.keep(_encoded(path, encoder), run.advantages.place)

    def prompts(numbers: list[int]) -> tuple[list[dict[str, Any]], list[list[int]]]:
        taken = rows.take(numbers)
        return schema.plain(path, taken.drop_columns(IDS.name), PROMPT), taken[IDS.name].to_pylist()

    environment = ppo.Environment(prompts, _reward(params, components))
    reference = trainable.frozen_logp(policy, run.inputs.reference, run.machine)
    decoding = Decoding(params.generate, params.seed, encoder.ends)
    trainer = ppo.Trainer(policy, reference, environment, options, decoding, run.machine)
    draws = sampling.draws(len(rows), steps, settings.batch_size, params.seed)
    plan = planning.Plan(draws, sampling.evaluation_points(steps, settings.evaluations), discarded)
    return trainer.fit(plan, settings.optimizer, run.checkpointing), plan, len(rows)


def _encoded(path: Path, encoder: Encoder) -> Iterator[pa.Table]:
    """The prompts of a table of responses with their token ids, a batch of the table at a time."""
    for table in schema.tables(path, PROMPT):
        first = table.filter(pc.equal(table["rank"], 0))
        ids = encoder.prompts(schema.plain(path, first, PROMPT))
        yield first.append_column(IDS, pa.array(ids, IDS.type))


def _reward(
    params: Params, components: Rewards | None
) -> Callable[[list[dict[str, Any]], list[str]], np.ndarray] | None:
    """The function that gives the total rewards of responses to the prompts of rows; None without reward models."""
    if components is None:
        return None

    def reward(rows: list[dict[str, Any]], texts: list[str]) -> np.ndarray:
        prompts = [row["prompt"] for row in rows]
        scores = components.score(prompts, texts, schema.contexts(rows))
        return rewards.total(scores, params.reward.weights, params.reward.shift)

    return reward
