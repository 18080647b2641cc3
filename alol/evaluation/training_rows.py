"""The responses that training chose from: their reward, value and advantage, and what became of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alol.algorithms import registry, selection
from alol.base.errors import InputError, ParameterError
from alol.config.params import Params
from alol.data import schema
from alol.evaluation.metrics import Array
from alol.evaluation.summary import Rows

USED, UNUSED, KEPT, DISCARDED = "trained on", "not trained on", "kept", "discarded"
_KEYS = ["prompt_id", "rank"]
_NUMBERS = ("reward", "value", "advantage")


@dataclass(frozen=True)
class Training:
    """Reward, value and advantage of the responses that training chose from (`columns`), and of all of them.

    `groups`: V(x), and R and A of the preferred and of the other responses; `examples`: their extremes with a title,
    each row with its `fate`.
    """

    columns: dict[str, Array]
    groups: dict[str, Array]
    examples: list[tuple[str, Rows]]
    good: Array | None  # of the responses that training chose from: whether a human judged them good
    use: Use
    prompts: int
    responses: int


@dataclass(frozen=True)
class Use:
    """Which of the logged responses a run learned from."""

    logged: bool  # False: it answered the prompts itself
    grouped: bool  # it learned from all responses to a prompt, whatever `train.train_on` says
    filtered: bool  # those with A <= 0 were left out
    preferred_only: bool

    def fate(self, rank: int, advantage: float) -> str:
        """What became of one response, in a word or two."""
        if not self.logged or (self.preferred_only and rank > 0 and not self.grouped):
            return UNUSED
        if not self.filtered:
            return USED
        return KEPT if advantage > 0 else DISCARDED


def use(params: Params) -> Use:
    """As the run's algorithm and its `train` section have it."""
    algorithm = registry.get(params.algorithm)
    positive = selection.of(algorithm, params.train).positive
    grouped = algorithm is not None and algorithm.group
    return Use(algorithm is not None, grouped, positive, params.train.train_on == "preferred")


def training(annotated: Path, advantages: Path, params: Params) -> Training:
    """Joins the two training tables row by row; InputError where they are not the same rows in the same order."""
    if schema.count(annotated) != schema.count(advantages):
        raise InputError(f"{annotated} and {advantages} differ in their number of rows; run `dvc repro`")
    found: list[tuple[float, ...]] = []
    label = params.aggregate.label
    pairs = zip(
        _flat(annotated, [*_KEYS, "context"] if label else _KEYS), _flat(advantages, [*_KEYS, *_NUMBERS]), strict=True
    )
    for i, (text, row) in enumerate(pairs):
        if (text["prompt_id"], text["rank"]) != (row["prompt_id"], row["rank"]):
            raise InputError(f"{advantages}: row {i} is another response than in {annotated}; run `dvc repro`")
        judged = _judged(text, label) if label else False
        found.append((judged, row["rank"], *(row[name] for name in _NUMBERS)))
    good, rank, *numbers = np.array(found, dtype=np.float64).reshape(-1, 2 + len(_NUMBERS)).T
    every = dict(zip(_NUMBERS, numbers, strict=True))
    chosen = (rank == 0) | (params.train.train_on == "all")
    if not chosen.any():
        raise InputError(f"{advantages} holds no response to train on; check the task's source and clean section")
    extremes = _extremes(every, rank, params.aggregate.examples)
    texts = _texts(annotated, {i for _, index in extremes for i in index})
    used = use(params)
    examples = [
        (title, [_example(texts[i], {name: float(every[name][i]) for name in _NUMBERS}, used) for i in index])
        for title, index in extremes
    ]
    return Training(
        columns={name: column[chosen] for name, column in every.items()},
        groups=_groups(every, rank),
        examples=examples,
        good=good[chosen] > 0 if label else None,
        use=used,
        prompts=int((rank == 0).sum()),
        responses=len(rank),
    )


def _example(text: dict[str, Any], numbers: dict[str, float], used: Use) -> dict[str, Any]:
    return {**text, **numbers, "fate": used.fate(text["rank"], numbers["advantage"])}


def _judged(row: dict[str, Any], label: str) -> bool:
    value = row["context"].get(label)
    if not isinstance(value, int | float):
        found = f"prompt {row['prompt_id']}, rank {row['rank']}, has {value!r:.40} there"
        raise ParameterError("aggregate.label", f"is '{label}', which must be a number in every context; {found}")
    return value > 0.5


def _groups(every: Mapping[str, Array], rank: Array) -> dict[str, Array]:
    """V(x) once per prompt; R and A of the preferred responses, and of the others where there are any."""
    groups = {"V(x)": every["value"][rank == 0]}
    for name, rows in (("preferred", rank == 0), ("others", rank > 0)):
        groups |= {f"R, {name}": every["reward"][rows], f"A, {name}": every["advantage"][rows]}
    return {name: values for name, values in groups.items() if len(values)}


def _extremes(every: Mapping[str, Array], rank: Array, count: int) -> list[tuple[str, list[int]]]:
    """Titles and row numbers: the highest and the lowest by V, and by A of the preferred and the other responses."""
    kinds = (
        ("advantage, preferred responses", every["advantage"], rank == 0),
        ("advantage, other responses", every["advantage"], rank > 0),
        ("value", every["value"], rank == 0),
    )
    result: list[tuple[str, list[int]]] = []
    for title, column, rows in kinds:
        order = np.flatnonzero(rows)
        order = order[np.argsort(column[order], kind="stable")]
        size = min(count, len(order) // 2 or 1)
        if len(order):
            result += [(f"Highest {title}", order[::-1][:size].tolist()), (f"Lowest {title}", order[:size].tolist())]
    return result


def _flat(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    for group in schema.read(path, columns):
        yield from group


def _texts(path: Path, wanted: set[int]) -> dict[int, dict[str, Any]]:
    columns = [*_KEYS, "prompt", "response"]
    return {i: row for i, row in enumerate(_flat(path, columns)) if i in wanted}
