"""What the report shows in rows: scores, sample responses, the data's sizes, the model, and the run's settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alol.base.text import show, show_p
from alol.config.sections import Reward
from alol.evaluation.ope import DOUBLY_ROBUST, SAMPLED
from alol.evaluation.report_run import Run
from alol.evaluation.revisions import flat
from alol.evaluation.summary import ALL, MODELS, OPE
from alol.evaluation.summary_tables import ordered, split_names

EMPTY = "(empty)"
ABSENT = object()


def scores(run: Run) -> list[dict[str, Any]]:
    """For each split its rows of the score table; METEOR of gold, against itself, says nothing and is left out."""
    names = score_names(run)
    tables = []
    for split in split_names(run.summary):
        lines = []
        for model in MODELS:
            values = run.summary[model][split]
            cells = ["" if (model, name) == ("gold", "meteor_stem") else show(values.get(name)) for name in names]
            cells[0] += f" [{values['reward_low']:.3f}, {values['reward_high']:.3f}]"
            lines.append({"model": model, "cells": cells})
        delta = run.summary["delta"][split]
        tables.append({"split": split, "lines": lines, "delta": difference(delta)})
    return tables


def score_names(run: Run) -> list[str]:
    return [name for name in ordered(list(run.summary["policy"][ALL])) if name not in ("reward_low", "reward_high")]


def off_policy(run: Run) -> str:
    """What the logged test responses say of the policy, beside what it reached, in a sentence or two."""
    found = run.summary["policy"][ALL][OPE]
    size = f"{found['ess']:.0f} of {found['responses']:.0f} logged responses count (effective sample size)"
    if DOUBLY_ROBUST not in found:
        return f"{size}: too few to estimate the policy from them."
    own = "" if run.params.same_test_rewards else " by the rewards of training"
    return (
        f"From logged test responses alone, the policy is estimated to be worth {show(found[DOUBLY_ROBUST])}{own} "
        f"(doubly robust) or {show(found[SAMPLED])} (importance sampling), the reference {show(found['baseline'])}. "
        f"{size}. The reference stands in for whoever wrote them, so that the estimates are biased where it writes "
        f"otherwise."
    )


def samples(run: Run) -> list[dict[str, Any]]:
    """Test prompts drawn with the section's seed, each with the three responses and their rewards."""
    options = run.params.aggregate
    total = len(run.rows["policy"])
    chosen = np.sort(np.random.default_rng(options.seed).permutation(total)[: options.samples])
    names = ["reward", *(f"reward_{name}" for name in sorted(run.params.reward.weights))]
    return [
        {
            "prompt": run.rows["gold"][i]["prompt"],
            "subset": run.rows["gold"][i]["subset"],
            "answers": [
                {
                    "model": model,
                    "response": shown(run.rows[model][i]["response"]),
                    "rewards": [(short(name), show(run.measured[model].columns[name][i])) for name in names],
                }
                for model in MODELS
            ],
        }
        for i in chosen
    ]


def formula(reward: Reward) -> str:
    """The total reward in words, such as `0.5 + 2 x good - 1 x short`."""
    terms = [f"{'-' if weight < 0 else '+'} {abs(weight):g} x {name}" for name, weight in reward.weights.items()]
    return " ".join([f"{reward.shift:g}", *terms] if reward.shift else terms).removeprefix("+ ")


def short(name: str) -> str:
    return name.removeprefix("reward_")


def shown(text: str) -> str:
    """A response as a card shows it: without blanks at its ends, which many tasks put there, and never as nothing."""
    return text.strip() or EMPTY


def difference(delta: Mapping[str, float]) -> str:
    """The policy's reward less the reference's, with its interval and p-value."""
    low, high = (f"{delta[name]:+.3f}" for name in ("reward_low", "reward_high"))
    return f"{delta['reward']:+.3f} [{low}, {high}], {show_p(delta['p_value'])}"


def facts(run: Run) -> list[tuple[str, str]]:
    """What this run is, as names and values: the model and its size, the algorithm, how long it trained."""
    p, history = run.params, run.history
    name = f"{p.policy.scratch.architecture}, from scratch" if p.policy.model == "scratch" else p.policy.model
    found = [("model", f"{name}; tuning: {p.policy.tuning}")]
    if "parameters" in history and "trainable" in history:
        every, trained = history["parameters"], history["trainable"]
        found.append(("size", f"{every:,} parameters, {trained:,} of them trained ({trained / max(1, every):.1%})"))
    options = ", ".join(f"{name} {value}" for name, value in p.hyperparameters.items())
    found.append(("algorithm", p.algorithm + (f": {options}" if options else "")))
    found.append(("seed", str(p.seed)))
    updates = f"{len(history['curve']):,}, batch size {p.train.batch_size}"
    best = run.summary["checkpoints"].get("best")
    if best and run.summary["selected"]:
        updates += f"; the checkpoint after update {best['update']:,} was kept"
    return [*found, ("updates", updates)]


def sizes(run: Run) -> list[tuple[str, str, str]]:
    """Split, prompts, logged responses."""
    return [(split, f"{prompts:,}", f"{responses:,}") for split, (prompts, responses) in run.sizes.items()]


def differing(own: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings of a task's file that are not what tasks share, by dotted key, in the file's order.

    `own`: tasks/<task>.yaml; `defaults`: as `yaml_files.read_defaults` gives them.
    """
    return [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in _differing(own, defaults)]


def _differing(own: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in flat(own).items():
        if value != {} and value != _at(defaults, _where(key.split("."), own)):
            yield key, value


def _where(parts: list[str], own: Mapping[str, Any]) -> Sequence[str]:
    """Under which keys the default of a task's setting stands: entries that the user names share one table."""
    section, *rest = parts
    if section == "source":
        return ["source", *rest[1:]]
    if section in ("rewards", "test_rewards") and len(rest) > 1:
        name, *key = rest
        if key[0] == "train":
            return ["rewards", "training", *key[1:]]
        return ["rewards", "kinds", str(_at(own, ["rewards", name, "kind"])), *key]
    if parts[:2] == ["clean", "options"]:
        return ["clean", "formats", str(_at(own, ["clean", "format"])), *rest[1:]]
    if parts[:2] == ["clean", "labels"]:
        return ["clean", "label_texts", *rest[2:]]
    return parts


def _at(table: Any, parts: Sequence[str]) -> Any:
    """The value under these keys; ABSENT where there is none."""
    for part in parts:
        table = table.get(part, ABSENT) if isinstance(table, Mapping) else ABSENT
    return table
