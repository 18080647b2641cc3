"""Reddit comments and their parents, voted up or down: the two csv files of Kaggle's "reddit comments scores".

Each file is about 1 GB, so it is read twice: once to count, once to keep the rows that were drawn. The prompt is the
parent comment, the response is the comment.
"""

from __future__ import annotations

import logging
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from alol.base.errors import InputError
from alol.config.ranges import Count, Seed
from alol.data import rawfiles
from alol.data.formats import Format, Row, marks
from alol.data.formats.token_counts import tokenizer
from alol.data.rawfiles import Record
from alol.data.schema import TEST, TRAIN, VALIDATION
from alol.data.words import split

logger = logging.getLogger(__name__)

POSITIVE, NEGATIVE, BOTH = "positive", "negative", "both"
# What pandas' read_csv took for a missing value when the published rows were drawn.
MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "n/a", "nan", "null"]
)  # fmt: skip
CHUNK = 1024  # texts whose tokens are counted at once
URL = re.compile(r"https?://\S+")
# Score deciles of the published files (0 %, 10 %, ... 100 %), to compare with.
PUBLISHED = {
    POSITIVE: (66, 72, 79, 88, 100, 116, 139, 174, 236, 385, 9582),
    NEGATIVE: (-2946, -25, -18, -14, -12, -10, -9, -8, -8, -7, -6),
}


@dataclass(frozen=True)
class Options:
    """Files are named below data/raw/<task>/."""

    positive: str
    negative: str
    train: Literal["positive", "negative"]  # whose comments the policy is trained on
    sample: Count  # rows drawn from each file
    seed: Seed  # of the draws
    max_words: Count  # of a comment and of its parent
    max_tokens: Count | None  # of both together, each with its separator
    tokenizer: str | None  # that counts them: hub id or local folder
    tokenizer_revision: str | None
    test: Count  # rows of each file
    validation: Count  # rows of each file
    separator: str  # after the parent


class Comment(NamedTuple):
    """A row that was drawn."""

    name: str
    parent: str
    text: str
    score: int
    parent_score: int


def read(raw: Path, options: Options) -> dict[str, Iterator[Row]]:
    """Test and validation rows of both files, the positive ones first, and the rest of one file for training.

    `both` are the training rows of the two files, for rewards that are fitted to them.
    """
    if options.max_tokens is not None and options.tokenizer is None:
        raise InputError("clean.options.max_tokens needs clean.options.tokenizer; or set it to null")
    for name in ("sample", "test", "validation"):
        if getattr(options, name) < 1:
            raise InputError(f"clean.options.{name} is {getattr(options, name)}; give a number of comments above 0")
    found = {
        polarity: _comments(rawfiles.find(raw, name), polarity, options)
        for polarity, name in ((POSITIVE, options.positive), (NEGATIVE, options.negative))
    }
    test, rest = slice(options.test), slice(options.test + options.validation, None)
    validation = slice(options.test, options.test + options.validation)

    def rows(part: slice, *polarities: str) -> Iterator[Row]:
        return (_row(item, name, options.separator) for name in polarities for item in found[name][part])

    return {
        TRAIN: rows(rest, options.train),
        VALIDATION: rows(validation, POSITIVE, NEGATIVE),
        TEST: rows(test, POSITIVE, NEGATIVE),
        BOTH: rows(rest, POSITIVE, NEGATIVE),
    }


def _comments(path: Path, polarity: str, options: Options) -> list[Comment]:
    """The rows of a file that are drawn and pass the filters, in the order of the draw."""
    scores, count = array("l"), 0
    for record in rawfiles.records(path, title=f"count {polarity}"):
        scores.append(_score(record, "score"))
        count += _complete(record)
    _tell_scores(path, polarity, scores)
    places = _drawn(count, options)
    if len(places) < options.sample:
        logger.info("%s: %d rows with a comment and its parent, fewer than the %d to draw: all are taken",
                    path, count, options.sample)  # fmt: skip
    kept = _kept(path, polarity, {int(index): place for place, index in enumerate(places)}, options)
    kept = _told_apart(list(_short_enough(kept, polarity, options)))
    needed = options.test + options.validation + 1
    if len(kept) < needed:
        raise InputError(
            f"{path}: {len(kept)} rows pass the filters, fewer than {needed} (test, validation and one to train on); "
            "lower clean.options.test and validation, or give a larger file"
        )
    logger.info("%s: %d of %d drawn rows pass the filters", path, len(kept), len(places))
    return kept


def _drawn(count: int, options: Options) -> np.ndarray:
    """Which of `count` rows are drawn, in the order of the draw: that of pandas' DataFrame.sample."""
    return np.random.RandomState(options.seed).choice(count, min(options.sample, count), replace=False)


def _complete(record: Record) -> bool:
    return _field(record, "text") not in MISSING and _field(record, "parent_text") not in MISSING


def _field(record: Record, name: str) -> str:
    """A cell as text; Parquet and JSON files have nulls where csv has nothing."""
    value = rawfiles.column(record, name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{record.where}: column '{name}' is {value!r:.40}, not a text")
    return value or ""


def _score(record: Record, name: str) -> int:
    value = rawfiles.column(record, name)
    try:
        return int(float(value))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{record.where}: column '{name}' is {value!r:.40}, not a number") from None


def _tell_scores(path: Path, polarity: str, scores: array) -> None:
    if scores:
        found = np.percentile(np.frombuffer(scores, dtype=f"i{scores.itemsize}"), range(0, 101, 10))
        logger.info("%s: %d rows, deciles of the score %s (published: %s)", path, len(scores),
                    ", ".join(f"{value:g}" for value in found), ", ".join(map(str, PUBLISHED[polarity])))  # fmt: skip


def _kept(path: Path, polarity: str, places: dict[int, int], options: Options) -> list[Comment]:
    """The drawn rows whose texts say something and are short enough in words, in the order of the draw."""
    kept: dict[int, Comment] = {}
    index = 0
    for record in rawfiles.records(path, title=f"draw {polarity}"):
        if not _complete(record):
            continue
        place = places.get(index)
        index += 1
        if place is None:
            continue
        parent, text = (" ".join(_field(record, name).split()) for name in ("parent_text", "text"))
        if parent and text and max(len(split(parent)), len(split(text))) <= options.max_words:
            numbers = _score(record, "score"), _score(record, "parent_score")
            name = f"{polarity}-{rawfiles.column(record, 'id')}"
            kept[place] = Comment(name, URL.sub("<URL>", parent), URL.sub("<URL>", text), *numbers)
    return [kept[place] for place in sorted(kept)]


def _short_enough(found: list[Comment], polarity: str, options: Options) -> Iterator[Comment]:
    """Without those of which parent and comment, each with its separator, have more than `max_tokens` tokens."""
    if options.max_tokens is None:
        yield from found
        return
    count = tokenizer(str(options.tokenizer), options.tokenizer_revision)
    with tqdm(desc=f"measure {polarity}", total=len(found), unit=" comments", disable=None) as bar:
        for start in range(0, len(found), CHUNK):
            part = found[start : start + CHUNK]
            parents, texts = count([item.parent for item in part]), count([item.text for item in part])
            yield from (
                item for item, a, b in zip(part, parents, texts, strict=True) if a + b + 2 <= options.max_tokens
            )
            bar.update(len(part))


def _told_apart(found: list[Comment]) -> list[Comment]:
    """Comments that stand in a file more than once under the same id get a number behind it."""
    seen: Counter[str] = Counter()
    result = []
    for item in found:
        seen[item.name] += 1
        again = seen[item.name]
        result.append(item._replace(name=f"{item.name}#{again}") if again > 1 else item)
    return result


def _row(item: Comment, polarity: str, separator: str) -> Row:
    return {
        "prompt_id": item.name,
        "subset": polarity,
        "prompt": item.parent + separator,
        "cuts": [0],
        "marks": marks([item.parent, separator]),
        "turns": [{"role": "human", "text": item.parent}],
        "context": {"score": item.score, "parent_score": item.parent_score},
        "rank": 0,
        "response": item.text,
    }


FORMAT = Format(Options, read, {})
