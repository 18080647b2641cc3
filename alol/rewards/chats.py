"""Rows as a reward model reads them: the conversation as a chat template writes it, and the marks of a row's format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alol.data.schema import PROMPT_MARKS
from alol.models.templates import CHAT, TEXT, Chat, keep, read, turns_of
from alol.rewards.network import Encoded
from alol.rewards.options import Classifier, Critic, Preference


def template(tokenizer: Any, options: Classifier | Critic | Preference, where: str) -> Chat | None:
    """What `options.template` makes of conversations; None where it is `text`.

    A model that was trained here has the template in its tokenizer, which `kept` put there. Raises ParameterError when
    there is none, or when it cannot write a dialogue.
    """
    if options.template == TEXT:
        return None
    table = _table(where)
    content = read(options.template if options.train is None else CHAT, tokenizer, f"{table}.template")
    chat = Chat(tokenizer, content, where=table)
    _ = chat.letters  # which the template is tried for
    return chat


def kept(tokenizer: Any, options: Classifier | Critic | Preference, where: str) -> Any:
    """The tokenizer of a model to train, with the template that a file holds as its own."""
    keep(options.template, tokenizer, f"{_table(where)}.template")
    return tokenizer


def _table(where: str) -> str:
    """The component whose model's key is `where`."""
    return where.removesuffix(".train.init").removesuffix(".model")


def encode(
    chat: Chat, limit: int, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict[str, Any]]
) -> list[Encoded]:
    """Each row's turns with the response as the last one, as the template writes them: at most `limit` tokens."""
    found = []
    for prompt, response, context in zip(prompts, responses, contexts, strict=True):
        ids = chat.conversation(turns_of(prompt, context.get("turns")), response, limit)
        ids = np.array(ids or [chat.tokenizer.eos_token_id or 0], np.int32)
        found.append(Encoded(ids, np.zeros_like(ids)))
    return found


def marks(name: str, text: str, prompt: str, context: dict[str, Any]) -> list[int]:
    """Where marks of the row's format begin and end in the `text` that is called `name`.

    They are known of the prompt, and so of a text that is the end of one, such as a history; a response has none.
    """
    places = context.get(PROMPT_MARKS) or []
    if name == "response" or not prompt.endswith(text):
        return []
    before = len(prompt) - len(text)
    return [max(place - before, 0) for place in places]
