"""Records of conversations, by what their columns are called: each convention is a function from a record to examples.

An example is a prompt (turns) with one or several responses. What a record lacks to be one is said in words, which the
caller counts or refuses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from alol.base.errors import InputError
from alol.data import rawfiles
from alol.data.formats.turns import (
    ASSISTANT,
    HUMAN,
    MARK,
    SYSTEM,
    TOOL,
    Turn,
    answered,
    fault_of,
    spoken,
    transcript,
    turns,
)
from alol.data.rawfiles import Record

NUMBER = re.compile(r"[-+]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][-+]?[0-9]{1,3})?")
CONVERSATIONS = ("messages", "conversations", "conversation")
PROMPTS, COMPLETIONS = ("prompt", "instruction"), ("completion", "response", "output")
SEVERAL = {"completions": "response", "answers": "answer"}  # column of a list of responses -> key of their text
TEXTS = {
    *CONVERSATIONS,
    *PROMPTS,
    *COMPLETIONS,
    *SEVERAL,
    "chosen",
    "rejected",
    "text",
    "system",
    "system_prompt",
    "input",
}
SIDES = ("chosen", "rejected")


class Answer(NamedTuple):
    text: str
    numbers: dict[str, float]  # of this response alone


class Example(NamedTuple):
    turns: list[Turn]
    answers: list[Answer]
    place: int = 0  # of the response in its conversation


Parsed = Iterator[Example | str]  # a text says why there is no example


def recognised(values: dict[str, Any]) -> str | None:
    """The convention of a record, by its columns; None where it has none."""
    there = {name for name, value in values.items() if value is not None and value != ""}
    items = next((values[name] for name in CONVERSATIONS if isinstance(values.get(name), list)), None)
    first = items[0] if items else None
    if isinstance(first, list) or (isinstance(first, dict) and {"text", "sender"} <= first.keys()):
        return "dialogues"
    if there.issuperset(SIDES):
        return (
            "preference" if _prompted(values) or isinstance(values["chosen"], list) else _transcript(values["chosen"])
        )
    if isinstance(first, dict):
        return "sharegpt" if first.get("from") is not None else "messages"
    if _prompted(values) and any(isinstance(values.get(name), list) for name in SEVERAL):
        return "scored"
    if _prompted(values) and there.intersection(COMPLETIONS):
        return "feedback" if "label" in there else "scored" if "helpfulness" in there else "completion"
    return _transcript(values.get("text"))


def _prompted(values: dict[str, Any]) -> bool:
    return any(values.get(name) not in (None, "") for name in PROMPTS)


def _transcript(value: Any) -> str | None:
    return "transcript" if isinstance(value, str) and MARK.match(value) else None


# --- columns


def _column(record: Record, *names: str) -> tuple[str, Any]:
    """Name and value of the first of the columns that is there and not null."""
    found = next((name for name in names if record.values.get(name) is not None), None)
    if found is None:
        there = ", ".join(name for name, value in record.values.items() if value is not None)
        raise InputError(f"{record.where}: no column {' or '.join(names)} with a value; there are: {there[:200]}")
    return found, record.values[found]


def _system(record: Record, conversation: list[Turn]) -> list[Turn]:
    """The conversation after the text of a column for it, unless it begins with a system turn itself."""
    text = next((text for name in ("system", "system_prompt") if (text := record.values.get(name))), None)
    given = isinstance(text, str) and text.strip() and conversation[:1] and conversation[0].role != SYSTEM
    return [Turn(SYSTEM, str(text)), *conversation] if given else conversation


def _prompt(record: Record) -> list[Turn]:
    """The prompt's turns: of messages, of a transcript, or one of the user's with the text; [] without the column."""
    if not _prompted(record.values):
        return []
    name, value = _column(record, *PROMPTS)
    if isinstance(value, list):
        return _system(record, turns(value, f"{record.where}: {name}"))
    text = rawfiles.text(record, name)
    found = transcript(text) if MARK.match(text) else []
    if not found:
        more = record.values.get("input") if name == "instruction" else None
        found = [Turn(HUMAN, f"{text}\n\n{more}" if isinstance(more, str) and more.strip() else text)]
    elif found[-1] == Turn(ASSISTANT, ""):  # the mark that asks for the response
        found.pop()
    return _system(record, found)


def _whole(record: Record, name: str, prompt: list[Turn], value: Any) -> list[Turn] | str:
    """The conversation that ends with a response: the prompt and what follows it, or a column that holds both."""
    if isinstance(value, list):
        found = turns(value, f"{record.where}: {name}")
    elif not isinstance(value, str):
        raise InputError(f"{record.where}: column '{name}' must be a text or a list of messages, but is {value!r:.60}")
    elif not prompt or value.startswith("\n\nHuman:"):
        found = transcript(value)
        if not found:
            raise InputError(f"{record.where}: column '{name}' is a text without Human: and Assistant:, and no prompt")
    else:
        return [*prompt, Turn(ASSISTANT, value)]
    if not prompt:
        return answered(_system(record, found))
    if found[0].role in (ASSISTANT, TOOL):
        return answered([*prompt, *found])
    start = spoken(prompt)
    if spoken(found)[: len(start)] != start:
        return f"whose prompt is not the beginning of its '{name}'"
    system = [turn for turn in prompt[:1] if turn.role == SYSTEM and found[0].role != SYSTEM]
    return answered([*system, *found])


def number(value: Any) -> float | int | None:
    """A finite number, also one that is written as a text; true is 1 and false is 0."""
    if isinstance(value, str):
        value = value.strip()
        if value.lower() in ("true", "false"):
            return int(value.lower() == "true")
        value = float(value) if NUMBER.fullmatch(value) else None
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, int | float) and abs(value) < 1e300 and math.isfinite(value) else None


def numbers(values: dict[str, Any], leave: set[str]) -> dict[str, float]:
    """What of a table is a number; texts are none here."""
    found = {name: number(value) for name, value in values.items() if name not in leave and not isinstance(value, str)}
    return {name: value for name, value in found.items() if value is not None}


# --- conventions


def _conversation(record: Record, every: bool) -> Parsed:
    name, value = _column(record, *CONVERSATIONS)
    yield from _responses(_system(record, turns(value, f"{record.where}: {name}")), 1, every)


def _responses(conversation: list[Turn], first: int, every: bool) -> Parsed:
    """The last assistant message as the response; `every`: each one from the turn `first` on, after its own history."""
    if not every:
        whole = answered(conversation)
        yield fault_of(whole) or Example(whole[:-1], [Answer(whole[-1].text, {})], len(whole) - 1)
        return
    places = [i for i, turn in enumerate(conversation) if i >= first and turn.role == ASSISTANT and turn.trained]
    if not places:
        yield "without an assistant message"
    for i in places:
        yield fault_of(conversation[: i + 1]) or Example(conversation[:i], [Answer(conversation[i].text, {})], i)


def _completion(record: Record, every: bool) -> Parsed:
    prompt = _prompt(record)
    name, value = _column(record, *COMPLETIONS)
    whole = _whole(record, name, prompt, value)
    if isinstance(whole, str):
        yield whole
    else:
        yield from _responses(whole, len(prompt), every)


def _feedback(record: Record, every: bool) -> Parsed:
    name, value = _column(record, "label")
    label = number(value)
    if label is None:
        raise InputError(f"{record.where}: column '{name}' must be true, false or a number, but is {value!r:.60}")
    for found in _completion(record, False):
        yield found if isinstance(found, str) else _numbered(found, {"label": label})


def _numbered(example: Example, found: dict[str, float]) -> Example:
    return example._replace(answers=[answer._replace(numbers=found) for answer in example.answers])


def _preference(record: Record, every: bool) -> Parsed:
    """Two conversations that differ in their last assistant message alone."""
    prompt, wholes = _prompt(record), []
    for side in SIDES:
        whole = _whole(record, side, prompt, _column(record, side)[1])
        if fault := whole if isinstance(whole, str) else fault_of(whole):
            yield fault
            return
        wholes.append(whole)
    chosen, rejected = wholes
    if chosen[:-1] != rejected[:-1]:
        yield "whose chosen and rejected differ before their last message"
    elif chosen[-1].text == rejected[-1].text:
        yield "whose chosen and rejected are the same"
    else:
        answers = [Answer(whole[-1].text, _of_side(record, side)) for side, whole in zip(SIDES, wholes, strict=True)]
        yield Example(chosen[:-1], answers, len(chosen) - 1)


def _of_side(record: Record, side: str) -> dict[str, float]:
    """The numbers of columns such as score_chosen or chosen-rating, as score and rating; `chosen` is 1 or 0."""
    found: dict[str, float] = {"chosen": int(side == "chosen")}
    for name, value in record.values.items():
        match = re.fullmatch(rf"{side}[_-](.+)|(.+)[_-]{side}", name)
        if match and (score := number(value)) is not None:
            found[match[1] or match[2]] = score
    return found


def _scored(record: Record, every: bool) -> Parsed:
    """Several responses in a list, or one a row; each with its numbers."""
    name = next((name for name in SEVERAL if isinstance(record.values.get(name), list)), None)
    if name is None:
        yield from _completion(record, False)
        return
    prompt, answers = _prompt(record), []
    for i, item in enumerate(record.values[name]):
        where = f"{record.where}: {name}[{i}]"
        text = item.get(SEVERAL[name]) if isinstance(item, dict) else None
        if not isinstance(text, str):
            raise InputError(f"{where}: must be a table with a text '{SEVERAL[name]}', but is {item!r:.60}")
        if text.strip():
            answers.append(Answer(text, _ratings(item, where, SEVERAL[name])))
        else:
            yield "with an empty response"
    if not prompt:
        yield "with an empty prompt"
    elif answers:
        yield Example(prompt, answers, len(prompt))


def _ratings(item: dict[str, Any], where: str, text: str) -> dict[str, float]:
    """The numbers of one response: its own, the rating of each aspect, and the mean of these."""
    found = {name: number(value) for name, value in item.items() if name not in (text, "model")}
    annotations = item.get("annotations")
    aspects: dict[str, float] = {}
    if annotations is not None and not isinstance(annotations, dict):
        raise InputError(f"{where}.annotations: must be a table of aspects, but is {annotations!r:.60}")
    for aspect, rating in (annotations or {}).items():
        value = number(rating.get("Rating") if isinstance(rating, dict) else rating)
        if value is not None:
            aspects[aspect] = value
    mean = {"mean_rating": sum(aspects.values()) / len(aspects)} if aspects else {}
    return {name: value for name, value in found.items() if value is not None} | aspects | mean


def _transcripts(record: Record, every: bool) -> Parsed:
    if record.values.get("chosen") is not None:
        yield from _preference(record, every)
        return
    name = _column(record, "text")[0]
    found = transcript(rawfiles.text(record, name))
    if not found:
        raise InputError(f"{record.where}: column '{name}' has no Human: and Assistant: after empty lines")
    yield from _responses(found, 1, every)


def _dialogues(record: Record, every: bool) -> Parsed:
    """Each turn from the second on answers the others: its sender is the assistant, whoever else spoke the human."""
    name, value = _column(record, *CONVERSATIONS)
    if not isinstance(value, list):
        raise InputError(f"{record.where}: {name}: must be a list of messages, but is {value!r:.60}")
    said: list[tuple[Any, str]] = []
    for i, message in enumerate(inner for item in value for inner in (item if isinstance(item, list) else [item])):
        if (
            not isinstance(message, dict)
            or not isinstance(message.get("text"), str)
            or not _is_name(message.get("sender"))
        ):
            raise InputError(f"{record.where}: {name}: message {i + 1} needs a text and a sender")
        text, sender = message["text"].strip(), message["sender"]
        if text and said and said[-1][0] == sender:
            said[-1] = sender, f"{said[-1][1]}\n{text}"
        elif text:
            said.append((sender, text))
    if len(said) < 2:
        yield "without an answer of another sender"
    seen = {
        sender: [Turn(ASSISTANT if other == sender else HUMAN, text) for other, text in said]
        for sender in dict.fromkeys(sender for sender, _ in said)
    }
    for i, (sender, text) in enumerate(said[1:], 1):
        yield Example(seen[sender][:i], [Answer(text, {})], i)


def _is_name(value: Any) -> bool:
    return type(value) in (str, int)


CONVENTIONS: dict[str, Callable[[Record, bool], Parsed]] = {
    "messages": _conversation,
    "completion": _completion,
    "preference": _preference,
    "feedback": _feedback,
    "scored": _scored,
    "transcript": _transcripts,
    "sharegpt": _conversation,
    "dialogues": _dialogues,
}
