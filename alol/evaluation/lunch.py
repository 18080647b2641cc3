"""What A-LoL's filter keeps of the training responses, before anything is trained: is there any lunch left?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alol.algorithms.sampling import run_length
from alol.base.errors import InputError, ParameterError
from alol.base.text import show
from alol.config.params import Params
from alol.data import schema
from alol.evaluation.metrics import Array

MANY = 12  # different values of a context key, above which it tells no groups of rows apart
SHARES = 100  # points of a curve
PASSES = 3  # of a training step, in forward passes: the backward pass is about two
NUMBERS = ("rank", "reward", "value", "advantage")


@dataclass(frozen=True)
class Group:
    """Some of the responses, and those of them with A > 0, which are `kept`.

    `reward` and `value` are means over all of the group, `kept_reward` over what is kept.
    """

    kind: str
    name: str
    responses: int
    kept: int
    tokens: int
    kept_tokens: int
    reward: float
    value: float
    kept_reward: float | None


@dataclass(frozen=True)
class Lunch:
    """The responses that training chooses from, by groups, the first of which are all of them.

    `drawn_reward` is the mean reward of draws in proportion to A+, None where no A is above 0; `curve` has one line for
    each threshold of A; `seconds` is an estimate of the time of training, None where stage advantage was not timed.
    """

    groups: list[Group]
    drawn_reward: float | None
    curve: list[dict[str, float | None]]
    updates: int
    seconds: float | None


def look(annotated: Path, advantages: Path, params: Params, seconds: float | None) -> Lunch:
    """Reads both training tables; `seconds` is what stage advantage took for them.

    InputError where they are not the same rows, or none is to be trained on.
    """
    rows = _numbers(advantages)
    names = _names(annotated, len(rows["reward"]), params)
    chosen = (rows["rank"] == 0) | (params.train.train_on == "all")
    if not chosen.any():
        raise InputError(f"{advantages} holds no response to train on; check the task's source and clean section")
    names["length"] = _quarters(rows["tokens"], chosen)
    groups = [_group("all", "", rows, chosen)]
    for kind, values in names.items():
        different = sorted({*values[chosen].tolist()})
        groups += [_group(kind, name, rows, chosen & (values == name)) for name in different if len(different) > 1]
    good = _good(names, rows, params)
    own = {name: column[chosen] for name, column in rows.items()}
    weight = own["advantage"].clip(min=0)
    updates, train = 0, params.train
    share = float((weight > 0).mean())
    with contextlib.suppress(ParameterError):  # too few for one update, which training refuses
        updates = run_length(train.updates, train.epochs, len(weight), train.batch_size, share, "train")
    spent = None if seconds is None else seconds * PASSES * updates * train.batch_size / len(rows["reward"])
    return Lunch(
        groups=groups,
        drawn_reward=float(np.average(own["reward"], weights=weight)) if weight.any() else None,
        curve=curve(own["advantage"], own["reward"], None if good is None else good[chosen]),
        updates=updates,
        seconds=spent,
    )


def _numbers(path: Path) -> dict[str, Array]:
    """Columns [N] of the advantage table, and the `tokens` of each response."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*NUMBERS, "tokens")}
    for table in schema.tables(path, [*NUMBERS, "response_ids"]):
        for name in NUMBERS:
            parts[name].append(table[name].to_numpy())
        parts["tokens"] += [chunk.value_lengths().to_numpy() for chunk in table["response_ids"].chunks]
    return {name: np.concatenate([np.zeros(0), *found]).astype(np.float64) for name, found in parts.items()}


def _names(path: Path, count: int, params: Params) -> dict[str, np.ndarray]:
    """What groups the rows [N]: the subset, the rank, and each key of the context that has few values."""
    found: dict[str, list[str]] = {"subset": [], "response": []}
    values: dict[str, set[str]] = {}
    total = 0
    for group in schema.read(path, ["rank", "subset", "context"]):
        found["subset"] += [row["subset"] or "" for row in group]
        found["response"] += ["preferred" if row["rank"] == 0 else "others" for row in group]
        for key in dict.fromkeys(key for row in group for key in row["context"]):
            if key not in values:
                values[key], found[key] = set(), [""] * total
            if len(values[key]) <= MANY:
                own = [_word(row["context"].get(key)) for row in group]
                values[key].update(own)
                found[key] += own
        total += len(group)
        for key in values:
            if len(values[key]) <= MANY:
                found[key] += [""] * (total - len(found[key]))
    if total != count:
        raise InputError(f"{path} has {total} rows, but the advantages {count}; run `dvc repro`")
    label = params.aggregate.label
    if label is not None and label not in values:
        raise ParameterError("aggregate.label", f"is '{label}', which no context has")
    return {key: np.array(own) for key, own in found.items() if len(own) == total and len(values.get(key, ())) <= MANY}


def _word(value: Any) -> str:
    """A number or a text as the name of a group; anything else has none."""
    return str(value) if isinstance(value, str | int | float) else ""


def _quarters(tokens: Array, chosen: np.ndarray) -> np.ndarray:
    """The quarter of the responses' lengths that each is in, as words [N]."""
    edges = np.unique(np.quantile(tokens[chosen], [0, 0.25, 0.5, 0.75, 1], method="nearest"))
    places = np.searchsorted(edges[1:-1], tokens, side="left")
    lows = [edges[0], *(edges[1:-1] + 1)]
    width = len(f"{edges[-1]:.0f}")
    highs = edges[1:] if len(edges) > 1 else edges
    words = [f"{low:{width}.0f} to {high:.0f} tokens" for low, high in zip(lows, highs, strict=True)]
    return np.array(words)[places]


def _group(kind: str, name: str, rows: dict[str, Array], chosen: np.ndarray) -> Group:
    kept = chosen & (rows["advantage"] > 0)
    return Group(
        kind, name, int(chosen.sum()), int(kept.sum()), int(rows["tokens"][chosen].sum()),
        int(rows["tokens"][kept].sum()), float(rows["reward"][chosen].mean()), float(rows["value"][chosen].mean()),
        float(rows["reward"][kept].mean()) if kept.any() else None,
    )  # fmt: skip


def _good(names: dict[str, np.ndarray], rows: dict[str, Array], params: Params) -> np.ndarray | None:
    """Whether a human judged each response good [N]: `aggregate.label` above 0.5; None without labels."""
    label = params.aggregate.label
    if label is None or label not in names:
        return None
    try:
        return names[label].astype(np.float64) > 0.5
    except ValueError:
        raise ParameterError("aggregate.label", f"is '{label}', which must be a number in every context") from None


def curve(advantage: Array, reward: Array, good: np.ndarray | None) -> list[dict[str, float | None]]:
    """What each threshold would keep, from the lowest A to the highest: those at or above it.

    `share` of the responses, their mean `reward`, and with labels the filter's `precision` and `recall`. At most SHARES
    thresholds, as many responses apart; and 0, the method's own, above which (not at which) responses are kept.
    """
    ordered = np.sort(advantage)
    at = np.unique(np.linspace(0, len(ordered) - 1, min(SHARES, len(ordered))).round().astype(int))
    lines = [_line(float(threshold), advantage >= threshold, reward, good) for threshold in np.unique(ordered[at])]
    return sorted(
        [*lines, _line(0.0, advantage > 0, reward, good)], key=lambda line: (line["threshold"], line["share"])
    )


def _line(threshold: float, kept: np.ndarray, reward: Array, good: np.ndarray | None) -> dict[str, float | None]:
    line = {
        "threshold": threshold,
        "share": float(kept.mean()),
        "reward": float(reward[kept].mean()) if kept.any() else None,
    }
    if good is not None:
        hits = int((kept & good).sum())
        line["precision"] = hits / int(kept.sum()) if kept.any() else None
        line["recall"] = hits / int(good.sum()) if good.any() else None
    return line


HEADER = ["rows", "", "responses", "A > 0", "share", "of the tokens", "reward", "V(x)", "reward where A > 0"]


def cells(groups: Sequence[Group]) -> list[list[str]]:
    """Header and lines as text."""
    return [HEADER, *_lines(groups)]


def _lines(groups: Sequence[Group]) -> Iterator[list[str]]:
    for one in groups:
        counts = [f"{one.responses:,}", f"{one.kept:,}", f"{one.kept / one.responses:.1%}"]
        tokens = f"{one.kept_tokens / one.tokens:.1%}" if one.tokens else ""
        yield [one.kind, one.name, *counts, tokens, show(one.reward), show(one.value), show(one.kept_reward)]


def words(found: Lunch) -> list[str]:
    """What it comes to, in lines."""
    every = found.groups[0]
    if not every.kept:
        return [f"No lunch: none of the {every.responses:,} responses has a reward above V(x)."]
    gain = f"{every.kept_reward - every.value:+.3f}" if every.kept_reward is not None else ""
    lines = [
        f"{every.kept / every.responses:.1%} of {every.responses:,} responses have A > 0; their mean reward is "
        f"{show(every.kept_reward)}, that of draws in proportion to A {show(found.drawn_reward)}; V(x) is "
        f"{show(every.value)} on average ({gain})."
    ]
    if found.seconds is not None:
        lines.append(
            f"Training by a_lol is {found.updates:,} updates, about {_time(found.seconds)} where stage "
            "advantage was timed, without evaluations."
        )
    return lines


def _time(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:,.0f} minutes"
