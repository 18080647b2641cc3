"""A summary as tables show it: which metrics and splits, in which order, as rows and as aligned text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alol.base.text import align, show
from alol.evaluation.metrics import Array
from alol.evaluation.summary import ALL, DISTANCE, MACRO, MODELS, OPE, Rows


def ordered(columns: Sequence[str]) -> list[str]:
    """Metric names as tables show them: the reward and its interval, its components, the task's own, the rest."""
    reward = ["reward", "reward_low", "reward_high"]
    rest = ["length", "distinct_1", "distinct_2", "distinct_3", "meteor_stem", DISTANCE]
    components = [name for name in columns if name.startswith("reward_") and name not in reward]
    own = [name for name in columns if name not in {*reward, *rest, *components, OPE}]
    return [name for name in [*reward, *sorted(components), *sorted(own), *rest] if name in columns]


def resampled(conversations: Array | None) -> str:
    """What the intervals resample, in a word: prompts, or conversations where these have several prompts."""
    several = conversations is not None and len(np.unique(conversations)) < len(conversations)
    return "conversations" if several else "prompts"


def split_names(summary: Mapping[str, Any]) -> list[str]:
    """Splits in the order of tables: `all`, then `macro` and the subsets where there are several."""
    names = [name for name in summary["policy"] if name not in (ALL, MACRO)]
    return [ALL, MACRO, *sorted(names)] if len(names) > 1 else [ALL]  # earlier versions wrote a single subset too


def tidy(summary: Mapping[str, Any], identity: Mapping[str, Any]) -> Rows:
    """One row per model and split; `delta` and `p_value` stand in the policy's rows."""
    rows = []
    for model in MODELS:
        for split, values in summary[model].items():
            row = {**identity, "model": model, "split": split, **{name: values[name] for name in ordered(list(values))}}
            delta = summary["delta"][split] if model == "policy" else {"reward": None, "p_value": None}
            rows.append({**row, "delta": delta["reward"], "p_value": delta["p_value"]})
    return rows


def terminal_table(summary: Mapping[str, Any]) -> str:
    """The splits worth showing as aligned text."""
    names = [name for name in ordered(list(summary["policy"][ALL])) if name not in ("reward_low", "reward_high")]
    header = ["split", "model", "reward", "95 %", *[name.removeprefix("reward_") for name in names[1:]]]
    lines = []
    for split in split_names(summary):
        for model in MODELS:
            values = summary[model][split]
            interval = f"{values['reward_low']:.3f}..{values['reward_high']:.3f}"
            lines.append(
                [split, model, show(values["reward"]), interval, *[show(values.get(name)) for name in names[1:]]]
            )
    return align([header, *lines], left=2)
