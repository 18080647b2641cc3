"""The training examples of a reward model: pairs of a better and a worse response, or texts with a class or a number.
The texts are the task's own responses, or those of `clean.labels`.

Examples of validation and test prompts, and of conversations there, are left out, so that the full model may score
those splits.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from alol.base.errors import InputError
from alol.data import schema
from alol.rewards.folds import fold, key, unseen
from alol.rewards.options import PAIRS, RESPONSES, Critic, Objective, Trainable, objective

log = logging.getLogger(__name__)
Row = tuple[str, str, dict[str, Any]]  # prompt, response, context
COLUMNS = ["prompt_id", "prompt", "response", "context", "turns", "subset", "rank", "marks"]


@dataclass(frozen=True)
class Examples:
    """Examples to learn from: a row with its class or number, or a better and a worse row."""

    rows: list[Row]
    members: list[tuple[int, ...]]  # the rows of each example
    targets: list[float]  # its class (an integer) or its number; 0 for a pair
    keys: list[str]  # what decides its fold
    related: list[tuple[str, ...]]  # the keys of all rows and examples that have its text, its own among them
    shared: bool  # with the prompts or the conversations of the training split
    objective: Objective
    mismatched: int = 0  # how many at the end are responses to another prompt (alol.rewards.mismatched)


class Fold(NamedTuple):
    """The examples `out`, on which a model is measured, and those `kept` to train it; some may be in neither."""

    out: list[int]
    kept: list[int]


class _Keys(dict[str, tuple[str, ...]]):
    """A dictionary from a text (see alol.rewards.folds.unseen) to the keys of the rows that have it."""

    def put(self, text: str, key: str) -> None:
        there = self.get(text, ())
        if key not in there:
            self[text] = (*there, key)

    def names(self) -> set[str]:
        """The set of all texts and keys."""
        return set(self).union(*self.values())


def split_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a split with `context` as the rewards get it."""
    for group in schema.read(path, COLUMNS):
        for row, context in zip(group, schema.contexts(group), strict=True):
            yield {**row, "context": context}


def _keys(path: Path, options: Trainable, where: str) -> _Keys:
    keys = _Keys()
    for row in split_rows(path):
        cells = row["prompt"], row["response"], row["context"]
        keys.put(unseen(options, where, *cells), key(options, where, *cells))
    return keys


def gather(clean: Path, options: Trainable, where: str) -> Examples:
    """The examples of a component from data/clean/<task>; raises InputError when none are left."""
    train, *others = (_keys(clean / f"{split}.parquet", options, where) for split in schema.SPLITS)
    held, texts = set().union(*(keys.names() for keys in others)), options.train.texts
    source = clean / "train.parquet"
    if texts == PAIRS:
        examples, wanted = _pairs(source, options, where, held, train), "two ranked responses to a prompt"
    elif texts == RESPONSES:
        wanted = f"a response with context.{options.train.column}"
        examples = _responses(source, options, where, held, train)
    else:
        source = clean / "labels" / f"{texts}.parquet"
        examples, wanted = _labelled(source, options, where, held, train), "a labelled text"
    if not examples.members:
        raise InputError(f"{where}.train: {source} has no example ({wanted}) whose prompt is not in validation or test")
    return examples


def _labelled(path: Path, options: Trainable, where: str, held: set[str], train: _Keys) -> Examples:
    learnt = objective(options)
    rows, targets, keys, texts, dropped = [], [], [], [], 0
    unknown: Counter[str] = Counter()
    name_of = "score" if learnt == "scores" else "label"
    for group in schema.read(path, schema.SCORED if learnt == "scores" else schema.LABELLED):
        for row in group:
            cells = (row["prompt"] or "", row["response"], row["context"])
            if isinstance(options, Critic) and row["context"].get("relation") not in options.relations:
                unknown[str(row["context"].get("relation"))] += 1
                continue
            name, text = key(options, where, *cells), unseen(options, where, *cells)
            if name in held or text in held:
                dropped += 1
                continue
            rows.append(cells)
            targets.append(row[name_of])
            keys.append(name)
            texts.append(text)
    if dropped:
        log.info("%s: %d labelled texts left out, for validation and test have their prompts", where, dropped)
    if unknown:
        listed = ", ".join(f"{name} {count}" for name, count in unknown.most_common())
        log.info("%s: %d labelled texts left out, whose relation has no words (%s)", where, unknown.total(), listed)
    shared, related = not train.names().isdisjoint([*keys, *texts]), _related(train, keys, texts)
    return Examples(rows, [(i,) for i in range(len(rows))], targets, keys, related, shared, learnt)


def _responses(path: Path, options: Trainable, where: str, held: set[str], train: _Keys) -> Examples:
    """The training responses whose context has the column; raises InputError for what is no number or no class."""
    learnt, column = objective(options), options.train.column
    rows, targets, keys, texts, dropped, without = [], [], [], [], 0, 0
    for row in split_rows(path):
        cells = (row["prompt"], row["response"], row["context"])
        value = row["context"].get(column)
        name, text = key(options, where, *cells), unseen(options, where, *cells)
        if value is None or name in held or text in held:
            without, dropped = without + (value is None), dropped + (value is not None)
            continue
        targets.append(_target(value, learnt, f"{where}.train.column: context.{column} of prompt '{row['prompt_id']}'"))
        rows.append(cells)
        keys.append(name)
        texts.append(text)
    for count, why in ((without, f"which have no {column}"), (dropped, "for validation and test have their prompts")):
        if count:
            log.info("%s: %d training responses left out, %s", where, count, why)
    single = [(i,) for i in range(len(rows))]
    return Examples(rows, single, targets, keys, _related(train, keys, texts), True, learnt)


def _target(value: Any, learnt: Objective, what: str) -> float:
    """A finite number, or the class 0 or 1; true is 1."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{what} is {value!r:.60}, but must be a number")
    if learnt == "labels" and value not in (0, 1):
        raise InputError(f"{what} is {value:g}, but must be 0 or 1; write objective: scores to learn a number")
    return int(value) if learnt == "labels" else float(value)


def _pairs(path: Path, options: Trainable, where: str, held: set[str], train: _Keys) -> Examples:
    """All pairs i < j of the ranks of one prompt; its rows are adjacent."""
    rows, members, keys, texts, dropped = [], [], [], [], 0
    for _, group in itertools.groupby(split_rows(path), lambda row: row["prompt_id"]):
        ranked = sorted(group, key=lambda row: row["rank"])
        cells = ranked[0]["prompt"], "", ranked[0]["context"]
        name, text = key(options, where, *cells), unseen(options, where, *cells)
        if name in held or text in held:
            dropped += 1
            continue
        start = len(rows)
        rows += [(row["prompt"], row["response"], row["context"]) for row in ranked]
        pairs = list(itertools.combinations(range(start, len(rows)), 2))
        members += pairs
        keys += [name] * len(pairs)
        texts += [text] * len(pairs)
    if dropped:
        log.info("%s: the pairs of %d prompts left out, for validation and test have them", where, dropped)
    return Examples(rows, members, [0] * len(members), keys, _related(train, keys, texts), True, "pairs")


def _related(train: _Keys, keys: list[str], texts: list[str]) -> list[tuple[str, ...]]:
    for name, text in zip(keys, texts, strict=True):
        train.put(text, name)
    return [train[text] for text in texts]


def parts(examples: Examples, folds: int, holdout: float) -> list[int]:
    """Where each example is held out: the number of its fold, or 0 and 1 (not held out) where no prompt is shared.

    Those held out are then about `holdout` of the keys, with the smallest hashes.
    """
    if examples.shared:
        return [fold(name, folds) for name in examples.keys]
    ordered = sorted(set(examples.keys), key=lambda name: (fold(name, 2**61), name))
    out = set(ordered[: max(1, round(holdout * len(ordered)))])
    return [int(name not in out) for name in examples.keys]


def divide(examples: Examples, folds: int, holdout: float) -> list[Fold]:
    """The examples held out in turn: one fold after the other, or a single one when no prompt is shared.

    What has the conversation of a row that is held out has its key, too; what has its prompt is not trained on either.
    """
    everything, own = range(len(examples.keys)), parts(examples, folds, holdout)
    if examples.shared:
        seen = [{fold(name, folds) for name in names} for names in examples.related]
        return [Fold([i for i in everything if own[i] == k], [i for i in everything if k not in seen[i]])
                for k in range(folds)]  # fmt: skip
    out = {examples.keys[i] for i in everything if own[i] == 0}
    kept = [i for i in everything if out.isdisjoint(examples.related[i])]
    return [Fold([i for i in everything if own[i] == 0], kept)]
