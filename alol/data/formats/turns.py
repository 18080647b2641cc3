"""Turns of a conversation: read from a list of messages, or from a text with marks.

Who speaks has many names, of which `ROLES` are known. Anything else in a message is refused in words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from alol.base.errors import InputError

SYSTEM, HUMAN, ASSISTANT, TOOL = "system", "human", "assistant", "tool"
ROLES = {
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(("user", "human", "prompter"), HUMAN),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "bing", "bard"), ASSISTANT),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "function_response"), TOOL),
}
CALLS = {"function_call", "tool_call"}  # roles of what an assistant says to a tool
MARK = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant|System):")


class Turn(NamedTuple):
    role: str
    text: str
    trained: bool = True  # false: what an assistant says to a tool, or what its record gives no weight


def turns(value: Any, where: str) -> list[Turn]:
    """The turns of a list of messages, each with role and content, or from and value."""
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: must be a list of messages, at least one, but is {value!r:.60}")
    return [_turn(item, f"{where}[{i}]") for i, item in enumerate(value)]


def _turn(item: Any, where: str) -> Turn:
    if not isinstance(item, dict):
        raise InputError(f"{where}: must be a message, a table with role and content, but is {item!r:.60}")
    role, content = ("from", "value") if item.get("from") is not None else ("role", "content")
    name = item.get(role)
    if not isinstance(name, str):
        there = ", ".join(map(str, item))
        raise InputError(f"{where}: a message needs role and content (or from and value); it has {there or 'nothing'}")
    known = ASSISTANT if name.lower() in CALLS else ROLES.get(name.lower())
    if known is None:
        raise InputError(f"{where}: the role {name!r:.40} is unknown; known: {', '.join([*ROLES, *sorted(CALLS)])}")
    calls = item.get("tool_calls") or item.get("function_call")
    said = item.get(content)
    text = "" if said is None and (calls or known == ASSISTANT) else _content(said, f"{where}.{content}")
    if calls:
        told = json.dumps(calls, ensure_ascii=False, default=str)
        text = f"{text}\n{told}" if text else told
    return Turn(known, text, not calls and name.lower() not in CALLS and item.get("weight") != 0)


def _content(value: Any, where: str) -> str:
    """A text, or the texts of a list of parts; anything else in it is refused by its type."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InputError(f"{where}: must be a text or a list of parts, but is {value!r:.60}")
    for i, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            found = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise InputError(f"{where}[{i}]: is a part of type {found!r:.40}; only parts with text can be read")
    return "".join(part["text"] for part in value)


def transcript(text: str) -> list[Turn]:
    """The turns of a text with marks as Anthropic's: Human: and Assistant: after an empty line; [] for none."""
    head, *pieces = MARK.split(text)
    if not pieces:
        return []
    found = [
        Turn({"Human": HUMAN, "Assistant": ASSISTANT, "System": SYSTEM}[mark], said.strip())
        for mark, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    return [Turn(SYSTEM, head.strip()), *found] if head.strip() else found


def answered(conversation: Sequence[Turn]) -> list[Turn]:
    """Up to the last assistant message: what a user said after it is answered by nothing."""
    last = max((i for i, turn in enumerate(conversation) if turn.role == ASSISTANT), default=-1)
    return list(conversation[: last + 1])


def fault_of(conversation: Sequence[Turn]) -> str | None:
    """Why the last turn is no response to the others; None where it is one."""
    if not conversation:
        return "without an assistant message"
    if not conversation[-1].trained:
        return "whose last assistant message is a call of a tool or has no weight"
    if not conversation[-1].text.strip():
        return "with an empty response"
    if not any(turn.text.strip() for turn in conversation[:-1]):
        return "with an empty prompt"
    return None


def spoken(conversation: Sequence[Turn]) -> list[tuple[str, str]]:
    """Its turns without a system turn at the beginning."""
    rest = conversation[1:] if conversation[:1] and conversation[0].role == SYSTEM else conversation
    return [(turn.role, turn.text.strip()) for turn in rest]
