"""Trains a policy from the reference with one of the algorithms: loads what the loop needs and runs it."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator

from alol import algorithms, evaluate, models, rewards, schema, train
from alol.errors import InputError
from alol.files import write_json
from alol.params import Params
from alol.tokens import Encoder


def improve(
    params: Params,
    reference: Path,
    advantages: Path,
    baseline: Path,
    reward_model: Path,
    folder: Path | None,
    main: Accelerator,
) -> None:
    """Writes the trained policy and training.json into `folder` (None: this process only helps to train).

    `reference`, `reward_model`: model folders. `advantages`: the training table. `baseline`: the reference's scored
    validation rollouts, the bar that a checkpoint has to beat.
    """
    algorithm, settings = algorithms.get(params.algorithm), params.train
    examples, plan = train.plan(
        schema.table(advantages), algorithm, settings, params.seed, shift_key=f"tasks.{params.task}.reward.shift"
    )
    loaded = models.load(reference, dropout=params.policy.dropout)
    policy = models.trainable(loaded, params.policy, reference, params.seed)
    if params.launch.recompute:
        models.recompute(policy.model)
    rows = schema.rows(baseline)
    encoder = Encoder(policy.tokenizer, params.policy)
    scorer = rewards.load(params.rewards, reward_model, params.launch) if main.is_main_process else None
    if settings.success != "reward" and settings.success.removeprefix("reward_") not in params.rewards:
        raise InputError(
            f"params.yaml: train.success is '{settings.success}'; known: reward, "
            + ", ".join(f"reward_{name}" for name in params.rewards)
        )
    validation = evaluate.Validation(
        policy.model, encoder, rows, encoder.prompts(rows), scorer, params.reward, settings.success,
        params.generate, params.launch, params.seed, main,
    )  # fmt: skip
    history = train.fit(
        policy.model, policy.tokenizer.pad_token_id, examples, plan, algorithm, params.hyperparameters,
        settings.optimizer, params.launch, main,
        evaluate=validation,
        keep=lambda: models.save(policy, folder) if folder is not None else None,
        bar=evaluate.success(rows, settings.success, params.reward),
    )  # fmt: skip
    if folder is not None:
        result = {"selected": history.selected, "discarded": plan.discarded, "updates": len(plan.draws)}
        write_json(folder / "training.json", {**result, "validation": history.validation, "curve": history.curve})
