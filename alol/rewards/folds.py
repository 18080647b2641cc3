"""Which model of a trained component may score a row: a hash that never changes says in which fold it is.

The rows of a conversation share a fold (`context.group`, where a format says it), other rows that of their prompt. A
model of fold k has seen neither the conversations nor the prompts of the training rows in fold k, so that these are not
scored by a model that knows them by heart. A prompt may stand in several conversations, and thus in several folds, or
in a labelled text that has none: an example is left out of every fold that has its prompt (alol.rewards.examples).
Light: no model is loaded here.
"""

from __future__ import annotations

import hashlib
from typing import Any

from alol.base.errors import InputError
from alol.rewards.options import Preference, Trainable

CONTEXT = "context."
GROUP = "group"  # key of the context: what its conversation is called


def fold(key: str, folds: int) -> int:
    """The fold of a key, equal on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % folds


def fold_folder(number: int) -> str:
    return f"fold{number}"


def key(options: Trainable, where: str, prompt: str, response: str, context: dict[str, Any]) -> str:
    """The key by which a row gets its fold: its conversation or, without one, the text that `unseen` returns."""
    group = context.get(GROUP)
    if isinstance(group, str | int) and group != "":
        return f"{GROUP} {group}"
    return unseen(options, where, prompt, response, context)


def unseen(options: Trainable, where: str, prompt: str, response: str, context: dict[str, Any]) -> str:
    """The text of a row that the scoring model must not have seen in training.

    It is the first context text that a classifier reads; without one the prompt, or the response if that is empty.
    """
    if not isinstance(options, Preference):
        for name in options.inputs:
            if name.startswith(CONTEXT):
                return text(name, where, prompt, response, context).strip()
    return prompt.strip() or response.strip()


def text(name: str, where: str, prompt: str, response: str, context: dict[str, Any]) -> str:
    """The text that `prompt`, `response` or `context.<key>` stands for; raises InputError when the key is missing."""
    if name == "prompt":
        return prompt
    if name == "response":
        return response
    value = context.get(name.removeprefix(CONTEXT))
    if not isinstance(value, str):
        listed = ", ".join(sorted(context)) or "none"
        given = "is missing" if value is None else f"is {value!r}, not a text"
        raise InputError(f"{where}.inputs: {name} {given}; keys of this row's context: {listed}")
    return value
