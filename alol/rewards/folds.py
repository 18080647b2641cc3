"""Which model of a trained component may score a row: the rows of a prompt share a fold, by a hash that never changes.

A model of fold k has not seen the prompts of fold k, so that training rows are not scored by a model that knows them by
heart. Light: no model is loaded here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from alol.base.errors import InputError
from alol.rewards.options import Preference, Trainable

CONTEXT = "context."


def fold(key: str, folds: int) -> int:
    """The fold of a key, equal on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % folds


def fold_folder(number: int) -> str:
    return f"fold{number}"


def key(options: Trainable, where: str, prompt: str, response: str, context: dict[str, Any]) -> str:
    """What must be unseen: the classifier's first text that is not the response; else the prompt, else the response."""
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


def texts(
    name: str, where: str, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict[str, Any]]
) -> list[str]:
    return [text(name, where, *row) for row in zip(prompts, responses, contexts, strict=True)]
