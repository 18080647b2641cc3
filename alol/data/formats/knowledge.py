"""Dialogues whose answers are grounded on a sentence: Wizard of Wikipedia and FaithDial, each in its published files.

The prompt is the knowledge sentence and the dialogue so far; the response is what the wizard says. `context` holds both
by themselves: `knowledge`, and `history` as a dialogue model reads it, each utterance followed by the separator.
"""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from alol.base.errors import InputError, ParameterError
from alol.config.ranges import Count, Seed, check_name
from alol.data import rawfiles
from alol.data.formats import Format, Row, marks
from alol.data.formats.extractive_fragments import coverage, density
from alol.data.rawfiles import Record
from alol.data.schema import SPLITS, TEST, TRAIN, VALIDATION
from alol.data.words import split

logger = logging.getLogger(__name__)

NOTHING_CHECKED = "no_passages_used"  # Wizard of Wikipedia's word for an answer without knowledge


@dataclass(frozen=True)
class Sources:
    """A file of each collection, or null."""

    wow: str | None
    faithdial: str | None


@dataclass(frozen=True)
class Options:
    """Files are named below data/raw/<task>/."""

    train: Sources
    validation: Sources
    test: Sources
    texts: dict[str, Sources]  # further tables of responses, for rewards that are fitted to them (see rewards: texts)
    unchecked: Literal["keep", "drop"]  # Wizard of Wikipedia's answers without knowledge in the history of later ones
    shuffle: Seed | None  # seed by which training examples of two collections are mixed; null: one after the other
    separator: str  # after the knowledge and after each utterance
    max_history: Count | None  # tokens of the history with its separators; older utterances are left out
    tokenizer: str | None  # that counts them: hub id or local folder
    tokenizer_revision: str | None


class Example(NamedTuple):
    """One answer of the wizard."""

    name: str
    knowledge: str
    history: list[str]  # utterances, the oldest first
    response: str


def read(raw: Path, options: Options) -> dict[str, Iterator[Row]]:
    """The rows of each split and of each of `texts`: one response a prompt, in the files' order unless shuffled."""
    named = {TRAIN: options.train, VALIDATION: options.validation, TEST: options.test, **options.texts}
    return {name: _rows(raw, sources, options, mixed=name == TRAIN) for name, sources in named.items()}


def check(options: Options) -> None:
    """Tokens need what counts them, and further texts have names of their own."""
    if options.max_history is not None and options.tokenizer is None:
        raise ParameterError("clean.options.max_history", "needs clean.options.tokenizer; or set it to null")
    for name in options.texts:
        if (problem := check_name(name, "name")) or name in SPLITS:
            raise ParameterError("clean.options.texts", f"is wrong: {problem or f'the name {name!r} is a split'}")


def _rows(raw: Path, sources: Sources, options: Options, *, mixed: bool) -> Iterator[Row]:
    files = {name: file for name, file in dataclasses.asdict(sources).items() if file is not None}
    rows = (row for name, file in files.items() for row in _collection(name, rawfiles.find(raw, file), options))
    if mixed and len(files) > 1 and options.shuffle is not None:
        everything = list(rows)
        random.Random(options.shuffle).shuffle(everything)
        yield from everything
    else:
        yield from rows


def _collection(name: str, path: Path, options: Options) -> Iterator[Row]:
    shorten = _shortener(options)
    for example in READERS[name](path, options):
        yield _row(example._replace(history=shorten(example.history)), name, options.separator)


def _row(example: Example, subset: str, separator: str) -> Row:
    head = f"Knowledge: {example.knowledge}{separator}"
    cuts = [len(head)]
    for utterance in example.history[:-1]:
        cuts.append(cuts[-1] + len(utterance) + len(separator))
    history = "".join(utterance + separator for utterance in example.history)
    roles = ("human", "assistant")
    turns = [
        {"role": roles[(len(example.history) - 1 - i) % 2], "text": utterance}
        for i, utterance in enumerate(example.history)
    ]
    pieces = [piece for text in (f"Knowledge: {example.knowledge}", *example.history) for piece in (text, separator)]
    return {
        "prompt_id": f"{subset}-{example.name}",
        "subset": subset,
        "prompt": head + history,
        "cuts": cuts,
        "marks": marks(pieces),
        "turns": turns,
        "context": {"knowledge": example.knowledge, "history": history},
        "rank": 0,
        "response": example.response,
    }


def _shortener(options: Options) -> Callable[[list[str]], list[str]]:
    """Leaves out the oldest utterances while a history has more than `max_history` tokens; the last one stays."""
    if options.max_history is None:
        return lambda history: history
    from alol.data.formats.token_counts import tokenizer

    count, limit = tokenizer(str(options.tokenizer), options.tokenizer_revision), options.max_history

    def shorten(history: list[str]) -> list[str]:
        if sum(map(len, history)) + len(history) <= limit:  # a token is at least one character
            return history
        sizes = [size + 1 for size in count(history)]  # each with its separator
        while len(history) > 1 and sum(sizes) - 1 > limit:  # the last separator belongs to the prompt
            history, sizes = history[1:], sizes[1:]
        return history

    return shorten


def _wow(path: Path, options: Options) -> Iterator[Example]:
    """Every answer of the wizard that follows something and was grounded on a sentence."""
    skipped = 0
    for number, record in enumerate(rawfiles.records(path)):
        history: list[str] = []
        for turn, utterance in enumerate(_utterances(record, "dialog")):
            where = f"{record.where}, turn {turn + 1}"
            said = _text(utterance, "text", where)
            if "wizard" not in _text(utterance, "speaker", where).lower():
                history.append(said)
                continue
            knowledge = _checked(utterance, where)
            if knowledge is None and options.unchecked == "drop":
                skipped += 1
                continue
            if knowledge is None or knowledge == NOTHING_CHECKED:
                skipped += 1
            elif history:
                yield Example(f"{number}-{turn}", knowledge, list(history), said)
            history.append(said)
    if skipped:
        logger.info("%s: %d answers without knowledge are no examples", path, skipped)


def _checked(utterance: dict[str, Any], where: str) -> str | None:
    """The sentence that an answer was grounded on; None where the wizard chose none."""
    checked = utterance.get("checked_sentence")
    if not isinstance(checked, dict):
        found = "is missing" if checked is None else f"is {checked!r:.40}"
        raise InputError(
            f"{where}: 'checked_sentence' {found}; a wizard's turn needs it, {{}} where nothing was chosen"
        )
    sentence = next(iter(checked.values()), None)
    if sentence is not None and not (isinstance(sentence, str) and sentence.strip()):
        raise InputError(f"{where}: the sentence in 'checked_sentence' is {sentence!r:.40}, not a text")
    return sentence


def _faithdial(path: Path, options: Options) -> Iterator[Example]:
    """The published JSON holds dialogues with `utterances`; the hub's tables hold one utterance a row."""
    for number, record in enumerate(rawfiles.records(path)):
        nested = "utterances" in record.values
        utterances = _utterances(record, "utterances") if nested else [record.values]
        for turn, utterance in enumerate(utterances):
            where = f"{record.where}, utterance {turn + 1}" if nested else record.where
            if "wizard" not in str(utterance.get("speaker", "wizard")).lower():
                continue
            history = utterance.get("history")
            if not isinstance(history, list) or not history or not all(isinstance(text, str) for text in history):
                raise InputError(f"{where}: 'history' must be a list of utterances, at least one")
            name = f"{number}-{turn}" if nested else str(number)
            knowledge = _text(utterance, "knowledge", where)
            yield Example(name, knowledge, [text.strip() for text in history], _text(utterance, "response", where))


READERS: dict[str, Callable[[Path, Options], Iterator[Example]]] = {"wow": _wow, "faithdial": _faithdial}


def _utterances(record: Record, name: str) -> list[dict[str, Any]]:
    found = rawfiles.column(record, name)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise InputError(f"{record.where}: '{name}' must be a list of utterances")
    return found


def _text(utterance: dict[str, Any], name: str, where: str) -> str:
    value = utterance.get(name)
    if not isinstance(value, str) or not value.strip():
        found = "is missing" if name not in utterance else f"is {value!r:.40}, but must be a text"
        raise InputError(f"{where}: '{name}' {found}")
    return value.strip()


def _of_knowledge(measure: Callable[[Sequence[str], Sequence[str], bool], float], legacy: bool) -> Callable:
    def metric(prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict]) -> list[float]:
        return [
            measure(split(context["knowledge"]), split(response), legacy)
            for response, context in zip(responses, contexts, strict=True)
        ]

    return metric


FORMAT = Format(
    Options,
    read,
    {
        "coverage": _of_knowledge(coverage, legacy=False),
        "density": _of_knowledge(density, legacy=False),
        "coverage_legacy": _of_knowledge(coverage, legacy=True),
        "density_legacy": _of_knowledge(density, legacy=True),
    },
    check,
    spread=("coverage", "density"),
)
