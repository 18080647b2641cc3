"""Chats as people have them: messages, pairs, ratings, transcripts; see `conversations` for what each column means.

Rows hold the turns with their roles, and a transcript of them as the prompt. Records stream: a first pass counts, and
each split is a pass of its own, so that memory does not grow with the file but for 16 bytes a conversation.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from alol.base.errors import InputError, ParameterError
from alol.config.ranges import Count, Seed
from alol.data import rawfiles, rawjson, shards
from alol.data.compact_sets import Counts, Key, digest
from alol.data.formats import Format, Row, by_prompt, table
from alol.data.formats.conversations import (
    CONVENTIONS,
    TEXTS,
    Example,
    Parsed,
    number,
    numbers,
    recognised,
)
from alol.data.formats.turns import ASSISTANT, HUMAN, SYSTEM, TOOL, Turn
from alol.data.rawfiles import Record
from alol.data.schema import SPLITS, TEST, TRAIN, VALIDATION

logger = logging.getLogger(__name__)

TOLD_APART = {"messages", "sharegpt", "dialogues"}  # conventions whose id is that of a conversation
FIRST = 20  # records that say which convention a file has
IDS = ("conversation_id", "id")
RANKED_BY = {"feedback": ("label",), "scored": ("mean_rating", "overall_score", "-rank", "helpfulness")}
ONE = {"messages", "sharegpt", "completion", "feedback", "scored"}  # a record may be one response of several
MISREAD, MISREAD_MEAN = 10, 2  # an overall score of 10 beside ratings of at most 2 on average is a 1 that was misread


@dataclass(frozen=True)
class Options:
    """Files, patterns of shards and folders are named below data/raw/<task>/ (alol.data.shards)."""

    train: str
    validation: str | None  # null: split off from train
    test: str | None
    shares: table.Shares
    seed: Seed
    convention: Literal[
        "auto",
        "messages",
        "completion",
        "preference",
        "feedback",
        "scored",
        "transcript",
        "sharegpt",
        "dialogues",
    ]
    columns: dict[str, str]  # a convention's name of a column -> the files' name
    assistant: Literal["last", "all"]
    per_record: Count | None  # prompts drawn of a record that gives several; null: all
    preference: str | None  # a number of responses; null: the convention's own; -name: the smaller, the better
    group: str | None  # column; null: the conversation's id, or else its first user turn
    context: dict[str, str]  # context key -> column, beside the numbers
    unusable: Literal["drop", "refuse"]  # records that are no example
    system: str  # what stands before a system turn in the prompt; likewise:
    human: str
    assistant_mark: str
    tool: str
    between: str  # after each turn


Wanted = Callable[[str], bool]  # of a group
LeftOut = dict[str, tuple[int, str]]  # reason -> how many records, and where the first of them is


class Item(NamedTuple):
    """A prompt with responses, each with its context."""

    name: str
    group: str
    turns: list[Turn]
    answers: list[tuple[str, dict[str, Any]]]


def check(options: Options) -> None:
    """Something must be left to train on, and a column has one name."""
    table.check(options)
    if len(set(options.columns.values())) < len(options.columns):
        raise ParameterError("clean.options.columns", "names a column twice")


def read(raw: Path, options: Options) -> dict[str, Iterator[Row]]:
    """The rows of each split, in the files' order; responses that a number ranks, best first."""
    names = {TRAIN: options.train, VALIDATION: options.validation, TEST: options.test}
    paths = {split: shards.find(raw, name) for split, name in names.items() if name is not None}
    numeric = shards.numeric_columns([path for found in paths.values() for path in found])
    numeric -= {options.columns.get(name, name) for name in TEXTS}
    chats = {split: _Chats(found, numeric, options) for split, found in paths.items()}
    shares = {split: getattr(options.shares, split) for split in names if split not in paths}
    home = by_prompt.split_off(chats[TRAIN].groups() if shares else {}, shares, options.seed)

    def rows(split: str) -> Iterator[Row]:
        if split != TRAIN and split in chats:
            return chats[split].rows(split, lambda group: True, log=True)
        return chats[TRAIN].rows(split, lambda group: not shares or home(digest(group)) == split, log=split == TRAIN)

    return {split: rows(split) for split in SPLITS}


class _Chats:
    """The conversations of some files, all of one convention."""

    def __init__(self, paths: list[Path], numeric: frozenset[str], options: Options) -> None:
        self._paths, self._numeric, self._options = paths, numeric, options
        self._cells = any(rawfiles.kind(path) in rawfiles.SEPARATED for path in paths)  # of texts, which may be JSON
        self._preference: str | None = None
        first = list(islice(self._records(), FIRST))
        for name, column in options.columns.items():
            if first and not any(column in record.values for record in first):
                there = ", ".join(first[0].values)
                raise ParameterError(
                    f"clean.options.columns.{name}", f"is '{column}', but {paths[0]} has: {there:.300}"
                )
        self._convention = self._recognise(first)
        self._preference = self._ranked_by(first)
        ranked = f", responses ranked by {self._preference}" if self._preference else ""
        logger.info("%s: the convention is %s%s", self._paths[0], self._convention, ranked)

    def groups(self) -> Counts:
        """How many records each group has."""
        examples = ((record, self._first(record)) for record in self._records())
        return Counts(digest(self._group(record, first.turns)) for record, first in examples if first is not None)

    def _first(self, record: Record) -> Example | None:
        return next((found for found in self._examples(record) if not isinstance(found, str)), None)

    def _examples(self, record: Record) -> Parsed:
        return CONVENTIONS[self._convention](record, self._options.assistant == "all")

    def _drawn(self, count: int, found: list[Example | str]) -> list[Example | str]:
        """What is no example, and `per_record` of the examples: those of the smallest hashes, in their order."""
        usable = [one for one in found if not isinstance(one, str)]
        usable.sort(key=lambda one: digest(f"{self._options.seed} {count} {one.place}"))
        drawn = {one.place for one in usable[: self._options.per_record]}
        return [one for one in found if isinstance(one, str) or one.place in drawn]

    def rows(self, split: str, wanted: Wanted, log: bool) -> Iterator[Row]:
        """The rows of the groups that are wanted; `log`: how many records gave none, and why."""
        misread = 0
        for item in self._prompts(wanted, log):
            text, cuts = self._prompt(item.turns)
            turns = [{"role": turn.role, "text": turn.text} for turn in item.turns]
            for rank, (response, context) in enumerate(item.answers):
                mean = number(context.get("mean_rating"))
                misread += context.get("overall_score") == MISREAD and mean is not None and mean <= MISREAD_MEAN
                yield {
                    "prompt_id": f"{split}-{item.name}",
                    "subset": split,
                    "prompt": text,
                    "cuts": cuts,
                    "turns": turns,
                    "context": context,
                    "rank": rank,
                    "response": response,
                }
        if misread:
            logger.warning(
                "%s: %d responses have an overall_score of %d beside a mean_rating of at most %d: it is a misread 1; "
                "clean.options.preference says which of the two ranks",
                *(split, misread, MISREAD, MISREAD_MEAN),
            )

    def _prompts(self, wanted: Wanted, log: bool) -> Iterator[Item]:
        """Prompts with their responses, best first; records of one response come together where a number ranks them."""
        if self._preference is None or self._convention not in ONE:
            items = ([item] for item in self._items(wanted, log))
        else:
            counts = Counts(map(_key, self._items(wanted, log=False)))
            items = by_prompt.together(self._items(wanted, log), _key, counts)
        for same in items:
            answers = [answer for item in same for answer in item.answers]
            if self._preference is not None:
                answers.sort(key=lambda answer: -self._score(answer[1]))  # stable: equals stay in the files' order
            yield same[0]._replace(answers=answers)

    def _score(self, context: dict[str, Any]) -> float:
        """What ranks a response: larger is better, unless a minus stands before the number's name; nan without it."""
        name = str(self._preference)
        score = number(context.get(name.removeprefix("-")))
        return math.nan if score is None else -score if name.startswith("-") else score

    def _items(self, wanted: Wanted, log: bool) -> Iterator[Item]:
        """The prompts of the records whose group is wanted."""
        left_out: LeftOut = {}
        try:
            for count, record in enumerate(self._records()):
                yield from self._parsed(count, record, wanted, left_out)
        finally:
            for reason, (count, first) in left_out.items() if log else ():
                logger.info("left out: %d %s (the first: %s)", count, reason, first)

    def _records(self) -> Iterator[Record]:
        """The files' records, with the columns that the options name for a convention."""
        named = self._options.columns.items()
        for record in shards.records(self._paths, self._numeric):
            values = record.values
            values |= {name: values[column] for name, column in named if column in values}
            if self._cells:
                for name in TEXTS & values.keys():
                    if values[name].startswith("[{"):
                        values[name] = rawjson.parsed(values[name], f"{record.where}: {name}")
            yield record

    def _recognise(self, first: list[Record]) -> str:
        if self._options.convention != "auto":
            return self._options.convention
        found = {recognised(record.values): record for record in reversed(first)}
        if None in found:
            there = ", ".join(map(str, found[None].values))
            raise InputError(
                f"{found[None].where}: fits no convention of chats; its columns are {there[:300]}; say in "
                "clean.options.columns which of them is messages, or prompt and completion"
            )
        if len(found) > 1:
            places = ", ".join(f"{name} in {record.where}" for name, record in found.items())
            raise InputError(f"records of several conventions: {places}; name one in clean.options.convention")
        return str(next(iter(found), "messages"))  # of no record, none is wrong

    def _ranked_by(self, first: list[Record]) -> str | None:
        """The number that ranks responses: the options', else the convention's usual one."""
        items = (item for record in first for item in self._parsed(0, record, lambda group: True, {}))
        contexts = [context for item in items for _, context in item.answers]
        there = dict.fromkeys(name for context in contexts for name in context if number(context[name]) is not None)
        named, usual = self._options.preference, RANKED_BY.get(self._convention, ())
        if named is not None and contexts and named.removeprefix("-") not in there:
            raise ParameterError(
                "clean.options.preference",
                f"is '{named}', but the numbers of responses in {self._paths[0]} are: {', '.join(there) or 'none'}",
            )
        return named or next((name for name in usual if name.removeprefix("-") in there), None)

    def _parsed(self, count: int, record: Record, wanted: Wanted, left_out: LeftOut) -> Iterator[Item]:
        """The prompts of one record, if its group is wanted; `count` names them."""
        shared: dict[str, Any] = {}
        every, some = self._examples(record), self._options.per_record is not None
        for found in self._drawn(count, list(every)) if some else every:
            if isinstance(found, str):
                self._leave_out(f"records {found}", record, left_out)
                continue
            if not shared:  # the group is that of the record's first example, drawn or not
                first = self._first(record) if some else found
                shared = self._context(record) | {"group": self._group(record, first.turns)}
            if not wanted(shared["group"]):
                continue
            answers = [(text, {**shared, **numbers}) for text, numbers in found.answers]
            ranked = [one for one in answers if self._preference is None or not math.isnan(self._score(one[1]))]
            for _ in answers[len(ranked) :]:
                self._leave_out(f"responses without the number {self._preference}", record, left_out)
            if ranked:
                yield Item(f"{count}-{found.place}", shared["group"], found.turns, ranked)

    def _leave_out(self, what: str, record: Record, left_out: LeftOut) -> None:
        if self._options.unusable == "refuse":
            raise InputError(f"{record.where}: one of the {what}; with clean.options.unusable: drop they are left out")
        count, first = left_out.get(what, (0, record.where))
        left_out[what] = count + 1, first

    def _context(self, record: Record) -> dict[str, Any]:
        """Every number of the record, those of its ratings, and the columns that the options name."""
        ratings = record.values.get("ratings")
        found = numbers(record.values, {*TEXTS, *IDS, str(self._options.group)})
        found |= numbers(ratings, set()) if isinstance(ratings, dict) else {}
        return found | {key: rawfiles.plain(record, column) for key, column in self._options.context.items()}

    def _group(self, record: Record, turns: list[Turn]) -> str:
        """What keeps rows together: the conversation's id; where records are no conversations, the first user turn."""
        if (name := self._options.group) is not None:
            value = rawfiles.column(record, name)
            if type(value) not in (str, int) or value == "":
                raise InputError(f"{record.where}: column '{name}' must be a text or an integer, but is {value!r:.60}")
            return str(value)
        for name in IDS if self._convention in TOLD_APART else ():
            if type(value := record.values.get(name)) in (str, int) and value != "":
                return str(value)
        return digest(next((turn.text for turn in turns if turn.role == HUMAN), turns[0].text)).hex()

    def _prompt(self, turns: list[Turn]) -> tuple[str, list[int]]:
        """The transcript that ends where the response begins, and the places at which its oldest turns may be cut."""
        options = self._options
        marks = {SYSTEM: options.system, HUMAN: options.human, ASSISTANT: options.assistant_mark, TOOL: options.tool}
        pieces = [f"{marks[turn.role]}{turn.text}{options.between}" for turn in turns]
        ends = list(accumulate(map(len, pieces)))
        last = max((i for i, turn in enumerate(turns) if turn.role == HUMAN), default=0)
        cuts = ends[: max(1, last)] if turns[0].role == SYSTEM else [0, *ends[:last]]
        return "".join(pieces) + options.assistant_mark.rstrip(), cuts


def _key(item: Item) -> Key:
    return digest(json.dumps([item.group, item.turns]))


FORMAT = Format(Options, read, {}, check)
