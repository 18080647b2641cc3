"""Helpful & Harmless dialogues in the layout of PRO's archive: one JSON object a line, K ranked responses each.

The prompt is the published one of the LLaMA adapters for this data: a system text, then turns marked with
`### Human:` and `### Assistant:`. Rewards stored in the files go into `context` as they are: raw logits.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alol.base.errors import InputError
from alol.data import rawfiles, rawjson
from alol.data.formats import Format, Row
from alol.data.rawfiles import Record
from alol.data.schema import TEST, TRAIN, VALIDATION

logger = logging.getLogger(__name__)

HUMAN, ASSISTANT = "<|prompter|>", "<|assistant|>"  # what a turn of the files starts with
ROLES = {HUMAN: "human", ASSISTANT: "assistant"}
MARKS = {HUMAN: " ### Human: ", ASSISTANT: " ### Assistant: "}  # what stands for it in the prompt


@dataclass(frozen=True)
class Options:
    """Files are named below data/raw/<task>/."""

    train: str
    validation: str
    test: dict[str, str]  # subset -> file
    excluded: str | None  # JSON: test file's name -> indices of contaminated rows
    contaminated: Literal["drop", "keep"]  # those, and test rows that also stand in the validation file
    stored: list[Literal["train", "validation", "test"]]  # splits whose stored rewards are kept as context.reward
    drop_colon: bool  # leave out training rows of which a response ends with ":"
    system: str


def read(raw: Path, options: Options) -> dict[str, Iterator[Row]]:
    """The rows of each split in the files' order, ranked as in `suffix`; a missing test file is named and skipped."""
    train, validation = rawfiles.find(raw, options.train), rawfiles.find(raw, options.validation)
    return {
        TRAIN: _train(train, options),
        VALIDATION: _validation(validation, options),
        TEST: _test(raw, validation, options),
    }


def _train(path: Path, options: Options) -> Iterator[Row]:
    seen: Counter[str] = Counter()
    try:
        for index, record in enumerate(rawfiles.records(path)):
            prefix, suffix = _fields(record)
            colon = any(response.endswith(":") for response in suffix)
            empty = not all(map(str.strip, suffix))
            seen["ending with a colon"] += colon
            seen["with an empty response"] += empty and not (colon and options.drop_colon)
            if not (colon and options.drop_colon):
                yield from _prompt_rows(record, TRAIN, TRAIN, index, options, prefix, suffix)
    except GeneratorExit:  # no more rows are wanted
        _log_train(path, seen, options)
        raise
    _log_train(path, seen, options)


def _log_train(path: Path, seen: Counter[str], options: Options) -> None:
    for what, count in seen.items():
        if count:
            fate = "left out" if options.drop_colon and what.endswith("colon") else "kept"
            logger.info("%s: %d rows %s are %s", path, count, what, fate)


def _validation(path: Path, options: Options) -> Iterator[Row]:
    for index, record in enumerate(rawfiles.records(path)):
        yield from _prompt_rows(record, VALIDATION, VALIDATION, index, options, *_fields(record))


def _test(raw: Path, validation: Path, options: Options) -> Iterator[Row]:
    listed = _excluded(raw, options.excluded)
    known = {_key(*_fields(record)) for record in rawfiles.records(validation)}
    for subset, name in options.test.items():
        try:
            path = rawfiles.find(raw, name)
        except InputError as error:
            logger.warning("test file '%s' is skipped: %s", subset, error)
            continue
        yield from _test_file(path, subset, listed.get(path.name.removesuffix(".gz"), set()), known, options)


def _test_file(path: Path, subset: str, listed: set[int], known: set[str], options: Options) -> Iterator[Row]:
    """The rows of one test file; what validation or the list of contaminated rows holds is left out or marked."""
    count = 0
    for index, record in enumerate(rawfiles.records(path)):
        prefix, suffix = _fields(record)
        contaminated = index in listed or _key(prefix, suffix) in known
        count += contaminated
        if contaminated and options.contaminated == "drop":
            continue
        for row in _prompt_rows(record, TEST, subset, index, options, prefix, suffix):
            yield {**row, "context": {**row["context"], "contaminated": True}} if contaminated else row
    if count:
        fate = "left out" if options.contaminated == "drop" else "kept and marked"
        logger.info("%s: %d contaminated rows (listed, or also in the validation file) are %s", path, count, fate)


def _key(prefix: list[str], suffix: list[str]) -> str:
    """What makes two rows the same dialogue, whatever the order of their responses."""
    return json.dumps([prefix, sorted(suffix)])


def _excluded(raw: Path, name: str | None) -> dict[str, set[int]]:
    if name is None:
        return {}
    path = rawfiles.find(raw, name)
    table = rawjson.document(path)
    try:
        if not all(type(index) is int for indices in table.values() for index in indices):
            raise TypeError("an index is not an integer")
        return {file: set(indices) for file, indices in table.items()}
    except (AttributeError, TypeError) as error:
        raise InputError(f"{path}: must be a JSON table from file name to row indices ({error})") from None


def _prompt_rows(
    record: Record, split: str, subset: str, index: int, options: Options, prefix: list[str], suffix: list[str]
) -> Iterator[Row]:
    turns = parse(prefix, record.where)
    prompt, cuts = render(prefix, options.system)
    rewards = _rewards(record, len(suffix)) if split in options.stored else []
    for rank, response in enumerate(suffix):
        yield {
            "prompt_id": f"{subset}-{index}",
            "subset": subset,
            "prompt": prompt,
            "cuts": cuts,
            "turns": turns,
            "context": {"reward": rewards[rank]} if rewards else {},
            "rank": rank,
            "response": response,
        }


def _fields(record: Record) -> tuple[list[str], list[str]]:
    """The turns before the responses, and the responses; the same turns stand once per response."""
    prefix, suffix = rawfiles.column(record, "prefix"), rawfiles.column(record, "suffix")
    if not _texts(suffix):
        raise InputError(f"{record.where}: 'suffix' must be a list of responses")
    if not isinstance(prefix, list) or len(prefix) != len(suffix) or not all(map(_texts, prefix)):
        raise InputError(f"{record.where}: 'prefix' must hold a list of turns for each of the {len(suffix)} responses")
    if any(turns != prefix[0] for turns in prefix):
        raise InputError(f"{record.where}: 'prefix' must hold the same turns for every response")
    return prefix[0], suffix


def _texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(item, str) for item in value)


def _rewards(record: Record, count: int) -> list[float]:
    rewards = record.values.get("reward")
    if rewards is None:
        return []
    numbers = isinstance(rewards, list) and all(type(item) in (int, float) for item in rewards)
    if not numbers or len(rewards) != count:
        raise InputError(f"{record.where}: 'reward' must hold a number for each of the {count} responses")
    return [rawfiles.number(item, record, "reward") for item in rewards]


def parse(prefix: list[str], where: str) -> list[dict[str, str]]:
    """Turns as role (human or assistant) and text, without the bare assistant mark at the end."""
    if prefix[-1] != ASSISTANT or len(prefix) < 2:
        raise InputError(f"{where}: 'prefix' must be turns followed by a bare {ASSISTANT}")
    turns = []
    for turn in prefix[:-1]:
        mark = next((mark for mark in ROLES if turn.startswith(mark)), None)
        if mark is None:
            raise InputError(f"{where}: the turn {turn[:40]!r} of 'prefix' starts with neither {HUMAN} nor {ASSISTANT}")
        turns.append({"role": ROLES[mark], "text": turn.removeprefix(mark)})
    return turns


def render(prefix: list[str], system: str) -> tuple[str, list[int]]:
    """The prompt, and the character offsets at which it may be cut.

    The first offset is the end of what is always kept (the system text and its newline); each other is the start of a
    later turn's mark, up to the last human turn. `prompt[:cuts[0]] + prompt[cuts[i]:]` lacks the i oldest turns.
    """
    head = f"{system}\n" if system else ""
    pieces = [turn.replace(HUMAN, MARKS[HUMAN]).replace(ASSISTANT, MARKS[ASSISTANT]) for turn in prefix]
    last = max((i for i, turn in enumerate(prefix) if turn.startswith(HUMAN)), default=0)
    cuts, offset = [len(head)], len(head)
    for piece in pieces[:last]:
        offset += len(piece)  # the blank before the first mark is stripped, so this is the next mark's "###"
        cuts.append(offset)
    return head + "".join(pieces).strip(), cuts


FORMAT = Format(Options, read, {})
