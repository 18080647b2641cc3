"""What a reward model is trained on: labelled texts, or pairs of responses of which the first is the better one.

Examples of validation and test prompts are left out, so that the full model may score those splits.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alol.base.errors import InputError
from alol.data import schema
from alol.rewards.folds import fold, key
from alol.rewards.options import Classifier, Critic, Preference, Trainable

log = logging.getLogger(__name__)
Row = tuple[str, str, dict[str, Any]]  # prompt, response, context
COLUMNS = ["prompt_id", "prompt", "response", "context", "turns", "subset", "rank"]


@dataclass(frozen=True)
class Examples:
    """Rows to encode, and what is learnt: an example is one row and its class, or a better and a worse row."""

    rows: list[Row]
    members: list[tuple[int, ...]]  # the rows of each example
    labels: list[int]  # its class; 0 for a pair
    keys: list[str]  # what decides its fold
    shared: bool  # with the prompts of the training split


def split_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a split with `context` as the rewards get it."""
    for group in schema.read(path, COLUMNS):
        for row, context in zip(group, schema.contexts(group), strict=True):
            yield {**row, "context": context}


def _keys(path: Path, options: Trainable, where: str) -> set[str]:
    return {key(options, where, row["prompt"], row["response"], row["context"]) for row in split_rows(path)}


def gather(clean: Path, options: Trainable, where: str) -> Examples:
    """The examples of a component from data/clean/<task>; raises InputError when none are left."""
    validation, test = (_keys(clean / f"{split}.parquet", options, where) for split in (schema.VALIDATION, schema.TEST))
    held = validation | test
    if isinstance(options, Preference):
        source = clean / "train.parquet"
        found = _pairs(source, options, where, held)
    else:
        source = clean / "labels" / f"{options.train.texts}.parquet"
        found = _labelled(source, options, where, held, _keys(clean / "train.parquet", options, where))
    if not found.members:
        wanted = "two ranked responses to a prompt" if isinstance(options, Preference) else "a labelled text"
        raise InputError(f"{where}.train: {source} has no example ({wanted}) whose prompt is not in validation or test")
    return found


def _labelled(path: Path, options: Classifier | Critic, where: str, held: set[str], train: set[str]) -> Examples:
    rows, labels, keys, dropped = [], [], [], 0
    unknown: Counter[str] = Counter()
    for group in schema.read(path, schema.LABELLED):
        for row in group:
            cells = (row["prompt"] or "", row["response"], row["context"])
            if isinstance(options, Critic) and row["context"].get("relation") not in options.relations:
                unknown[str(row["context"].get("relation"))] += 1
                continue
            name = key(options, where, *cells)
            if name in held:
                dropped += 1
                continue
            rows.append(cells)
            labels.append(row["label"])
            keys.append(name)
    if dropped:
        log.info("%s: %d labelled texts left out, for validation and test have their prompts", where, dropped)
    if unknown:
        listed = ", ".join(f"{name} {count}" for name, count in unknown.most_common())
        log.info("%s: %d labelled texts left out, whose relation has no words (%s)", where, unknown.total(), listed)
    return Examples(rows, [(i,) for i in range(len(rows))], labels, keys, not train.isdisjoint(keys))


def _pairs(path: Path, options: Preference, where: str, held: set[str]) -> Examples:
    """All pairs i < j of the ranks of one prompt; its rows are adjacent."""
    rows, members, keys, dropped = [], [], [], 0
    for _, group in itertools.groupby(split_rows(path), lambda row: row["prompt_id"]):
        ranked = sorted(group, key=lambda row: row["rank"])
        name = key(options, where, ranked[0]["prompt"], "", {})
        if name in held:
            dropped += 1
            continue
        start = len(rows)
        rows += [(row["prompt"], row["response"], row["context"]) for row in ranked]
        found = list(itertools.combinations(range(start, len(rows)), 2))
        members += found
        keys += [name] * len(found)
    if dropped:
        log.info("%s: the pairs of %d prompts left out, for validation and test have them", where, dropped)
    return Examples(rows, members, [0] * len(members), keys, shared=True)


def divide(examples: Examples, folds: int, holdout: float) -> list[list[int]]:
    """The examples held out in turn: one list per fold, or a single list when no prompt is shared.

    The single list takes about `holdout` of the keys, those with the smallest hashes.
    """
    if examples.shared:
        numbers = [fold(name, folds) for name in examples.keys]
        return [[i for i, number in enumerate(numbers) if number == k] for k in range(folds)]
    ordered = sorted(set(examples.keys), key=lambda name: (fold(name, 2**61), name))
    out = set(ordered[: max(1, round(holdout * len(ordered)))])
    return [[i for i, name in enumerate(examples.keys) if name in out]]
