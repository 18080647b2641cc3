"""From the test rows of gold, reference and policy to metrics/summary.json: pure functions of lists of rows.

A split is `all` (the test rows pooled) and, where there are several test subsets, each of these and `macro` (the mean
over them). Reading and writing are in the stage, what a number means is in `alol.evaluation.metrics`.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from alol.base.errors import InputError
from alol.base.files import damaged, read_json
from alol.config import params, sections
from alol.data import schema
from alol.data.formats import Format, Metric
from alol.evaluation import metrics
from alol.evaluation.metrics import Array

MODELS = ("gold", "reference", "policy")
ALL, MACRO = "all", "macro"
DISTANCE = "kl_per_token"  # of a policy alone
OPE = "ope"  # of a policy alone: its off-policy estimates (alol.evaluation.ope)
JUDGED = ("value_judged_mse", "value_judged_mse_constant", "value_noise", "value_learnable", "judge_samples")
Rows = list[dict[str, Any]]
Splits = dict[str, dict[str, dict[str, float]]]  # `gold | reference | policy | delta` -> split -> metric


class Evaluation(TypedDict):
    """One evaluation while training."""

    update: int
    epoch: float
    reward: float


class Update(TypedDict):
    """One update; algorithms add numbers of their own."""

    update: int
    loss: float


class History(TypedDict):
    """training.json of a policy."""

    parameters: NotRequired[int]  # of the model, a shared one counted once; earlier versions did not write it
    trainable: NotRequired[int]  # of these
    selected: int
    discarded: float
    validation: list[Evaluation]
    curve: list[Update]


class ValueFit(TypedDict):
    """metrics/value.json."""

    value_mse: float
    value_mse_constant: float
    value_judged_mse: NotRequired[float]  # this and the rest: where sampled answers judge V(x)
    value_judged_mse_constant: NotRequired[float]
    value_noise: NotRequired[float]
    value_learnable: NotRequired[float]
    judge_samples: NotRequired[int]


class Heldout(TypedDict):
    """heldout.json of a value head."""

    value: list[float]
    reward: list[float]


@dataclass(frozen=True)
class Measured:
    """One model's test rows: the texts and one array per metric that is a mean over rows."""

    texts: list[str]
    columns: dict[str, Array]
    spread: Sequence[str] = ()  # columns of which the standard deviation is reported too
    conversations: Array | None = None  # the conversation of each row, as a number; None: each row is one


def gold_rows(rows: Rows, p: params.Params) -> Rows:
    """The gold response of each prompt: the preferred one, or the one that scores best (the first of equals)."""
    if p.aggregate.gold == "preferred":
        return [row for row in rows if row["rank"] == 0]
    measure, reward = p.train.success, p.reward
    groups = itertools.groupby(rows, lambda row: row["prompt_id"])
    return [max(group, key=lambda row: schema.score(row, measure, reward.weights, reward.shift)) for _, group in groups]


def check_aligned(tables: Mapping[str, Rows]) -> None:
    """Raises InputError unless the tables (name -> rows) hold the same prompts in the same order."""
    (first, rows), *others = tables.items()
    if not rows:
        raise InputError(f"{first} holds no test row; check the task's source and clean section")
    for name, other in others:
        if len(other) != len(rows):
            raise InputError(f"{name} has {len(other)} rows but {first} has {len(rows)}; run `dvc repro`")
        for i, (a, b) in enumerate(zip(rows, other, strict=True)):
            if a["prompt_id"] != b["prompt_id"]:
                found = f"row {i} is prompt '{b['prompt_id']}' but '{a['prompt_id']}' in {first}"
                raise InputError(f"{name}: {found}; run `dvc repro`")


def splits(subsets: Sequence[str]) -> dict[str, list[Array]]:
    """Split name -> groups of row numbers; only `macro` has more than one group, and is the mean over them.

    One subset is `all`, and has no other name, so that no number stands in a table twice.
    """
    pooled, names = {ALL: [np.arange(len(subsets))]}, sorted(set(subsets))
    if len(names) == 1:
        return pooled
    if {ALL, MACRO} & set(names):
        raise InputError(f"a test subset must not be called '{ALL}' or '{MACRO}'; rename it in the source")
    column = np.array(subsets, dtype=object)
    groups = {name: np.flatnonzero(column == name) for name in names}
    return {**{name: [index] for name, index in groups.items()}, **pooled, MACRO: list(groups.values())}


def measure(
    rows: Rows, gold: Rows, reward: sections.Reward, task_metrics: Mapping[str, Metric], spread: Sequence[str] = ()
) -> Measured:
    """The metrics of each row; `gold` gives METEOR its references. InputError where one is not a finite number."""
    texts = [row["response"] for row in rows]
    columns = {"reward": [schema.total_reward(row, reward.weights, reward.shift) for row in rows]}
    for name in reward.weights:
        columns[f"reward_{name}"] = [row[f"reward_{name}"] for row in rows]
    references = [row["response"] for row in gold]
    columns |= {name: metric(texts, references) for name, metric in metrics.METRICS.items()}
    prompts, contexts = [row["prompt"] for row in rows], schema.contexts(rows)
    for name, function in task_metrics.items():
        columns[name] = function(prompts, texts, contexts)
    arrays = {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            row = rows[int(np.flatnonzero(~np.isfinite(array))[0])]
            raise InputError(f"{name} is not a finite number for prompt '{row['prompt_id']}'; check what computes it")
    return Measured(texts, arrays, spread, conversations([context.get("group") for context in contexts]))


def conversations(groups: Sequence[Any]) -> Array:
    """A number for each row, equal for rows of one conversation; `groups` are the rows' `context.group`.

    What one conversation holds is not independent, so intervals and p-values take it as a whole. A row without a
    group (None) is a conversation by itself.
    """
    return metrics.clusters([i if group is None else json.dumps(group) for i, group in enumerate(groups)])


def compared(tables: Mapping[str, Rows], p: params.Params, form: Format) -> dict[str, Measured]:
    """The metrics of gold, reference and policy, whose `tables` must hold the same prompts in the same order."""
    check_aligned(tables)
    return {name: measure(rows, tables["gold"], p.reward, form.metrics, form.spread) for name, rows in tables.items()}


def _split(measured: Measured, groups: list[Array], options: sections.Aggregate) -> dict[str, float]:
    """The metrics of one model on one split."""
    rewards, members = [measured.columns["reward"][index] for index in groups], _members(measured, groups)
    low, high = metrics.bootstrap_interval(rewards, options.bootstrap, options.seed, members)
    return {**_means(measured, groups), "reward_low": number(low), "reward_high": number(high)}


def _members(measured: Measured, groups: list[Array]) -> list[Array] | None:
    """The conversation of each row of the groups."""
    return None if measured.conversations is None else [measured.conversations[index] for index in groups]


def _means(measured: Measured, groups: list[Array]) -> dict[str, float]:
    result = {name: _mean(column, groups) for name, column in measured.columns.items()}
    for name in measured.spread:
        result[f"{name}_std"] = float(np.mean([measured.columns[name][index].std() for index in groups]))
    for n in (1, 2, 3):
        values = [metrics.distinct([measured.texts[i] for i in index], n) for index in groups]
        result[f"distinct_{n}"] = float(np.mean(values))
    return {name: number(value) for name, value in result.items()}


def _mean(column: Array, groups: list[Array]) -> float:
    return float(np.mean([column[index].mean() for index in groups]))


def number(value: float) -> float:
    """Six significant digits: more than a test set supports, and free of a last bit that differs between machines."""
    if not math.isfinite(value):
        raise InputError(f"a metric is {value}; check the reward components and the training log")
    return float(f"{value:.6g}")


def summarise(subsets: Sequence[str], models: Mapping[str, Measured], options: sections.Aggregate) -> Splits:
    """`gold | reference | policy | delta` -> split -> metric; `subsets` names the test subset of each row."""
    groups = splits(subsets)
    result = {
        name: {split: _split(measured, index, options) for split, index in groups.items()}
        for name, measured in models.items()
    }
    difference = models["policy"].columns["reward"] - models["reference"].columns["reward"]
    result["delta"] = {}
    for split, index in groups.items():
        differences, members = [difference[i] for i in index], _members(models["policy"], index)
        p_value = metrics.sign_flip_p(differences, options.permutations, options.seed, members)
        low, high = metrics.bootstrap_interval(differences, options.bootstrap, options.seed, members)
        result["delta"][split] = {
            "reward": number(_mean(difference, index)),
            "reward_low": number(low),
            "reward_high": number(high),
            "p_value": number(p_value),
        }
    return result


def with_distance(found: Splits, subsets: Sequence[str], log_ratios: Rows) -> Splits:
    """`found` with `policy` -> split -> `kl_per_token`: the mean of log pi - log pi_ref over tokens of its answers.

    `log_ratios` are the rows of alol.data.schema.LOG_RATIOS, one for each of `subsets`.
    """
    total, tokens = (np.array([row[name] for row in log_ratios], np.float64) for name in ("log_ratio", "tokens"))
    for split, groups in splits(subsets).items():
        means = [total[index].sum() / max(1.0, tokens[index].sum()) for index in groups]
        found["policy"][split][DISTANCE] = number(float(np.mean(means)))
    return found


def validation(models: Mapping[str, Measured]) -> dict[str, dict[str, float]]:
    """`gold | reference | policy` -> metric, on the validation prompts pooled."""
    return {name: _means(measured, [np.arange(len(measured.texts))]) for name, measured in models.items()}


def checkpoints(history: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """`best | worst` -> update, epoch and value of the success measure, of the evaluations while training.

    The evaluation before the first update is none of them; of equals the first counts.
    """
    found = [entry for entry in history if entry["update"] > 0]
    chosen = {"best": max, "worst": min}
    entries = {name: pick(found, key=lambda entry: entry["reward"]) for name, pick in chosen.items() if found}
    return {
        name: {"update": int(at["update"]), "epoch": number(at["epoch"]), "value": number(at["reward"])}
        for name, at in entries.items()
    }


def filtered(good: Array, advantage: Array) -> dict[str, float]:
    """How well A > 0 finds the responses that a human judged good: precision, recall, and the share of good ones."""
    kept = advantage > 0
    hits = float((kept & good).sum())
    return {
        "precision": number(hits / kept.sum() if kept.any() else 0.0),
        "recall": number(hits / good.sum() if good.any() else 0.0),
        "base_rate": number(float(good.mean())),
    }


def heldout(path: Path) -> Heldout:
    """The value head's predictions for prompts that it did not see, and their rewards."""
    found = read_json(path, Heldout)
    if not 0 < len(found["value"]) == len(found["reward"]):
        raise damaged(path, f"{len(found['value'])} values for {len(found['reward'])} rewards")
    return found


def run_numbers(training: History, value: ValueFit, reward_model: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The keys of the summary that earlier stages measured."""
    accuracy, rank = (
        {component: number(measured[name]) for component, measured in reward_model.items() if name in measured}
        for name in ("accuracy", "spearman")
    )
    return {
        "discarded": number(training["discarded"]),
        "selected": int(training["selected"]),
        "value_mse": number(value["value_mse"]),
        "value_mse_constant": number(value["value_mse_constant"]),
        **{name: number(value[name]) for name in JUDGED if name in value},
        "reward_accuracy": accuracy,
        **({"reward_rank_correlation": rank} if rank else {}),
    }


def headline(summary: Mapping[str, Any], verdict: str) -> dict[str, float | str]:
    """What one looks at first, and DVC's table begins with: three numbers of a summary, and what they come to."""
    reward, reference = (summary[name][ALL]["reward"] for name in ("policy", "reference"))
    return {"reward": reward, "reference": reference, "delta": summary["delta"][ALL]["reward"], "verdict": verdict}
