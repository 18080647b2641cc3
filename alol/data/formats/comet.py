"""Commonsense triples (head, relation, tail): the files of symbolic knowledge distillation's ATOMIC10X and ATOMIC-2020.

A prompt is a head and a relation in the published model's notation, a response is a tail. Tails of one head and
relation are responses to one prompt, the most plausible first.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alol.base.errors import InputError, ParameterError
from alol.config.ranges import Count, Seed
from alol.data import rawfiles
from alol.data.compact_sets import Counts, Key, digest
from alol.data.formats import Format, Row, by_prompt, marks
from alol.data.rawfiles import Record
from alol.data.schema import TEST, TRAIN, VALIDATION

logger = logging.getLogger(__name__)

ATOMIC10X, ATOMIC2020 = "atomic10x", "atomic2020"
SPLITS = ("train", "val", "test")  # as ATOMIC10X calls them
COLUMNS = ("head", "relation", "tail")  # of ATOMIC-2020, whose files have no header
SCORE = "p_valid_model"  # how plausible the published critic finds a triple


@dataclass(frozen=True)
class Options:
    """Files are named below data/raw/<task>/."""

    atomic10x: str  # JSON lines
    atomic2020: str | None  # tab-separated, without a header
    test: list[Literal["atomic2020", "atomic10x"]]  # where test prompts come from; the subsets' names
    relations: list[str]  # rows of others are left out and counted
    train_prompts: Count | None  # drawn from the train split, whose file may be sorted; null: all
    validation_rows: Count | None  # drawn from the val split; null: all
    test_prompts: Count | None  # drawn from each subset; null: all
    seed: Seed  # of these draws


def read(raw: Path, options: Options) -> dict[str, Iterator[Row]]:
    """The rows of each split, prompt by prompt; ranks by the stored plausibility, equals in the file's order."""
    path = rawfiles.find(raw, options.atomic10x)
    return {TRAIN: _train(path, options), VALIDATION: _validation(path, options), TEST: _test(raw, path, options)}


def check(options: Options) -> None:
    """Test prompts come from somewhere."""
    if not options.test:
        raise ParameterError("clean.options.test", "is empty; name atomic2020, atomic10x or both")
    if ATOMIC2020 in options.test and options.atomic2020 is None:
        raise ParameterError("clean.options.atomic2020", "must name a file, since clean.options.test has atomic2020")


def prompt(head: str, relation: str) -> list[str]:
    """The published model's notation, with the blank that ends it; every second piece is a mark."""
    marked = ("<head>", f" {head.strip()} ", "</head>", " ", "<relation>", f" {relation} ", "</relation>", " ", "[GEN]")
    return ["", *marked, " "]


@dataclass
class _Triples:
    """The rows of a file (of one split of ATOMIC10X), as often as they are asked for, without other relations."""

    path: Path
    split: str | None  # None: a file of ATOMIC-2020
    options: Options

    def __iter__(self) -> Iterator[Record]:
        return self._read(Counter(), None)

    def count(self) -> Counts:
        """Rows per prompt; says which relations are left out."""
        other: Counter[str] = Counter()
        counts = Counts(map(_key, self._read(other, f"count {self.split or self.path.name}")))
        if other:
            listed = ", ".join(f"{name} {count}" for name, count in other.most_common(12))
            what = f"{self.split} triples" if self.split else "triples"
            logger.info("%s: %d %s of other relations are left out (%s)", self.path, other.total(), what, listed)
        return counts

    def _read(self, other: Counter[str], title: str | None) -> Iterator[Record]:
        for record in rawfiles.records(self.path, COLUMNS if self.split is None else None, title):
            if self.split is not None and _split(record) != self.split:
                continue
            for name in COLUMNS:
                rawfiles.text(record, name)
            if record.values["relation"] in self.options.relations:
                yield record
            else:
                other[record.values["relation"]] += 1


def _split(record: Record) -> str:
    split = rawfiles.column(record, "split")
    if split not in SPLITS:
        raise InputError(f"{record.where}: column 'split' is {split!r:.40}; known: {', '.join(SPLITS)}")
    return split


def _key(record: Record) -> Key:
    return digest(f"{record.values['head'].strip()}\t{record.values['relation']}")


def _train(path: Path, options: Options) -> Iterator[Row]:
    triples = _Triples(path, "train", options)
    yield from _rows(triples, _drawn(triples.count(), options.train_prompts, options.seed), TRAIN)


def _drawn(counts: Counts, wanted: int | None, seed: int) -> Mapping[Key, int]:
    """As many prompts as are wanted, each with all of its rows; all where there are no more."""
    if wanted is None or wanted >= len(counts):
        return counts
    return {key: counts[key] for key in random.Random(seed).sample(sorted(counts), wanted)}


def _rows(records: Iterable[Record], counts: Mapping[Key, int], subset: str) -> Iterator[Row]:
    for number, group in enumerate(by_prompt.together(records, _key, counts)):
        yield from _prompt_rows(group, f"{subset}-{number}", subset)


def _prompt_rows(group: list[Record], name: str, subset: str) -> Iterator[Row]:
    head, relation = group[0].values["head"].strip(), group[0].values["relation"]
    scores = [_score(record) for record in group]
    pieces = prompt(head, relation)
    order = sorted(range(len(group)), key=lambda i: -(scores[i] or 0.0))
    for rank, i in enumerate(order):
        score = {} if scores[i] is None else {SCORE: scores[i]}
        yield {
            "prompt_id": name,
            "subset": subset,
            "prompt": "".join(pieces),
            "cuts": [0],
            "marks": marks(pieces),
            "turns": [],
            "context": {"head": head, "relation": relation, **score},
            "rank": rank,
            "response": group[i].values["tail"],
        }


def _score(record: Record) -> float | None:
    """The stored plausibility; None where a file has none."""
    score = record.values.get(SCORE)
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise InputError(f"{record.where}: column '{SCORE}' is {score!r:.40}, not a number")
    return rawfiles.number(score, record, SCORE)


def _validation(path: Path, options: Options) -> Iterator[Row]:
    """A random sample of rows, as published; rows with the same prompt are then one prompt with several responses."""
    triples = _Triples(path, "val", options)
    counts = triples.count()
    chosen: Iterable[Record] = triples
    if options.validation_rows is not None and options.validation_rows < counts.total():
        chosen = random.Random(options.seed).sample(list(triples), options.validation_rows)
        counts = Counts(map(_key, chosen))
    yield from _rows(chosen, counts, VALIDATION)


def _test(raw: Path, path: Path, options: Options) -> Iterator[Row]:
    for subset in options.test:
        place = path if subset == ATOMIC10X else rawfiles.find(raw, str(options.atomic2020))
        triples = _Triples(place, "test" if subset == ATOMIC10X else None, options)
        yield from _rows(triples, _drawn(triples.count(), options.test_prompts, options.seed), subset)


FORMAT = Format(Options, read, {}, check)
