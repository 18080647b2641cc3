"""The format of a user's own task: tables with a column of prompts and a column of responses.

A row holds one response, or a list of them; rows with the same id (without an id: the same prompt) are responses to one
prompt, wherever they stand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alol.base.errors import InputError, ParameterError
from alol.config.ranges import Part, Seed, Text
from alol.data import rawfiles, shards
from alol.data.compact_sets import Counts, Key, digest
from alol.data.formats import Format, Row, by_prompt
from alol.data.rawfiles import Record
from alol.data.schema import SPLITS, TEST, TRAIN, VALIDATION


@dataclass(frozen=True)
class Shares:
    """Parts of the training file's prompts that become the splits without a file of their own."""

    validation: Part
    test: Part


@dataclass(frozen=True)
class Options:
    """Files are named below data/raw/<task>/; see alol.data.rawfiles for their kinds and alol.data.shards for names."""

    train: str
    validation: str | None  # null: split off from train
    test: str | None
    shares: Shares
    seed: Seed  # of the splitting off
    prompt: str  # column
    marks: list[Text]  # texts in prompts that are special tokens, as a template of the user's own wrote them
    response: str  # column: a text, or a list of texts, best first
    id: str | None  # column; null: rows with equal prompts belong together
    preference: str | None  # column: a number per response, larger is better; null: best first, as in the file
    context: dict[str, str]  # context key -> column


def read(raw: Path, options: Options) -> dict[str, Iterator[Row]]:
    """The rows of each split; prompts in the order in which they are complete, ranks by preference or by order."""
    files = {TRAIN: options.train, VALIDATION: options.validation, TEST: options.test}
    paths = {split: shards.find(raw, name) for split, name in files.items() if name is not None}
    shares = {split: getattr(options.shares, split) for split in files if split not in paths}
    among = {*options.context.values()} - {options.prompt, options.response, options.id}
    numeric = shards.numeric_columns([path for found in paths.values() for path in found], among)
    counts = _count(paths[TRAIN], options)
    home = by_prompt.split_off(counts, shares, options.seed)
    result = {}
    for split in SPLITS:
        if split != TRAIN and split in paths:
            own = _count(paths[split], options)
        else:
            own = counts.select(lambda key, split=split: home(key) == split) if shares else counts
        result[split] = _rows(shards.records(paths.get(split, paths[TRAIN]), numeric), split, own, options)
    return result


def check(options: Any) -> None:
    """Something must be left to train on."""
    if options.validation is None and options.test is None and options.shares.validation + options.shares.test >= 1:
        raise ParameterError("clean.options.shares", "take all of the prompts; they must be less than 1 together")


def _key(record: Record, options: Options) -> Key:
    value = rawfiles.column(record, options.id) if options.id else rawfiles.text(record, options.prompt)
    if type(value) not in (str, int) or value == "":
        raise InputError(f"{record.where}: column '{options.id}' must be a text or an integer, but is {value!r:.60}")
    return digest(str(value))


def _count(paths: list[Path], options: Options) -> Counts:
    return Counts(_key(record, options) for record in shards.records(paths))


def _rows(records: Iterator[Record], split: str, counts: Mapping[Key, int], options: Options) -> Iterator[Row]:
    """The rows of the prompts that are counted; records of other prompts are passed over."""
    groups = by_prompt.together(records, lambda record: _key(record, options), counts)
    for number, group in enumerate(groups):
        yield from _prompt_rows(group, split, number, options)


def _prompt_rows(group: list[Record], split: str, number: int, options: Options) -> Iterator[Row]:
    prompt = rawfiles.text(group[0], options.prompt)
    responses: list[tuple[str, float, Record]] = []
    for record in group:
        if rawfiles.text(record, options.prompt) != prompt:
            raise InputError(f"{record.where}: another prompt than in {group[0].where}, with the same '{options.id}'")
        responses += _responses(record, options)
    if options.preference:
        responses.sort(key=lambda item: -item[1])  # stable: equals stay in the file's order
    name = f"{split}-{rawfiles.column(group[0], options.id) if options.id else number}"
    for rank, (response, _, record) in enumerate(responses):
        yield {
            "prompt_id": name,
            "subset": split,
            "prompt": prompt,
            "cuts": [0],
            "turns": [],
            "context": {key: rawfiles.plain(record, column) for key, column in options.context.items()},
            "rank": rank,
            "response": response,
            **({"marks": _marks(prompt, options)} if options.marks else {}),
        }


def _marks(prompt: str, options: Options) -> list[int]:
    """Where the user's marks begin and end in a prompt."""
    found = re.finditer("|".join(map(re.escape, options.marks)), prompt)
    return [place for mark in found for place in mark.span()]


def _responses(record: Record, options: Options) -> list[tuple[str, float, Record]]:
    """A record's responses, each with its preference (0 without such a column)."""
    value = rawfiles.column(record, options.response)
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{record.where}: column '{options.response}' must be a text or a list of texts, none empty")
    if options.preference is None:
        return [(text, 0.0, record) for text in texts]
    given = rawfiles.column(record, options.preference)
    numbers = [_number(item) for item in (given if isinstance(value, list) and isinstance(given, list) else [given])]
    if len(numbers) != len(texts) or any(math.isnan(number) for number in numbers):
        raise InputError(f"{record.where}: column '{options.preference}' must hold a number for each response")
    return [(text, number, record) for text, number in zip(texts, numbers, strict=True)]


def _number(value: Any) -> float:
    """The value as a number (CSV holds texts); not a number when it is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


FORMAT = Format(Options, read, {}, check)
