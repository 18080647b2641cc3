"""A row's turns as a chat template writes them: the tokenizer's own, or one from a file."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from alol.base import faults
from alol.base.errors import InputError, ParameterError
from alol.config.model_names import TEMPLATE
from alol.models.letters import Letters

if TYPE_CHECKING:  # `stages.check` does without
    from transformers import PreTrainedTokenizerBase

POLICY = "policy"  # the section that names the template and the lengths of policies
KEY = f"{POLICY}.template"
FOLDER, SUFFIX = "templates", TEMPLATE  # of files, of which DVC knows when they change
TEXT, CHAT = "text", "chat"  # values of it that are no file
ROLES = {"human": "user"}  # a role of ours, as templates call it; the others are called the same
ASKED, SAID = "Who?", "It is me."  # a dialogue that shows what a template writes around texts
Turns = Sequence[dict[str, str]]


class Lengths(Protocol):
    """How prompts and responses become tokens: these keys of the section `policy`, or of a reward that reads as one."""

    template: str
    max_prompt: int
    max_response: int
    end_of_text: bool
    long_prompt: str


def is_file(template: str) -> bool:
    return template not in (TEXT, CHAT)


def read(template: str, tokenizer: PreTrainedTokenizerBase, key: str = KEY) -> str:
    """The content of the `template` that the parameter `key` names: of a file, or the tokenizer's own."""
    if not is_file(template):
        return own(tokenizer, key)
    file = path(template, key)
    with faults.reading(lambda why: ParameterError(key, f"is '{template}', which cannot be read: {why}")):
        return file.read_text(encoding="utf-8")


def own(tokenizer: PreTrainedTokenizerBase, key: str = KEY) -> str:
    """The tokenizer's own template, or the one that `keep` gave it."""
    if not tokenizer.chat_template:
        raise ParameterError(key, f"is chat, but the tokenizer has no chat template; name a file {FOLDER}/*{SUFFIX}")
    return tokenizer.get_chat_template()


def keep(template: str, tokenizer: PreTrainedTokenizerBase, key: str = KEY) -> None:
    """Makes a template from a file the tokenizer's own, which is saved with it: whoever loads it renders the same."""
    if is_file(template):
        tokenizer.chat_template = read(template, tokenizer, key)


def path(template: str, key: str = KEY) -> Path:
    """The file that the parameter `key` names, which must lie in FOLDER, a dependency of the stages that read it."""
    file = Path(template)
    if file.parts[:1] != (FOLDER,) or ".." in file.parts or file.suffix != SUFFIX:
        raise ParameterError(key, f"is '{template}', but must be text, chat or a {SUFFIX} file in {FOLDER}/")
    if not file.is_file():
        raise ParameterError(key, f"is '{template}', which does not exist")
    return file


@dataclass(frozen=True)
class Chat:
    """What a template makes of turns, and what it ends a response with; `where` is the table that names it."""

    tokenizer: PreTrainedTokenizerBase
    template: str
    ends: frozenset[str] = frozenset()  # tokens that end a response beside the template's own; marks, too
    where: str = POLICY

    @property
    def key(self) -> str:
        return f"{self.where}.template"

    @cached_property
    def letters(self) -> Letters:
        """Added tokens that the template writes are marks too, whether they are called special or not."""
        added = (token.content for token in self.tokenizer.added_tokens_decoder.values())
        return Letters(self.tokenizer, self.ends.union(token for token in added if token in self._shown))

    @cached_property
    def ending(self) -> tuple[str, int] | None:
        """What follows a response, up to its end token, for `letters`; and this token. None: the template has none."""
        after = self._shown.rpartition(SAID)[2]
        found = self.letters.first(after)
        return None if found is None else (self.letters.mark(after[: found.end()]), self.letters.ids[found[0]])

    def prompt(self, row: dict[str, Any], limit: int, refuse: bool) -> list[int]:
        """Token ids of a row's turns and what begins the answer, at most `limit` unless `refuse` raises InputError.

        Whole turns are left out, the oldest after a system turn first; of the last one, if need be, its first letters.
        """
        what = f"prompt {row['prompt_id']}: {self.key}"
        turns = turns_of(row["prompt"], row.get("turns"))

        def encode(turns: Turns) -> list[int]:
            return self._ids(turns, what, add_generation_prompt=True)

        ids = encode(turns)
        if len(ids) <= limit:
            return ids
        if refuse:
            raise too_long(row, len(ids), limit, self.where)
        ids = _shortened(turns, limit, encode)
        if len(ids) > limit:
            raise InputError(
                f"prompt {row['prompt_id']}: a system turn and the template's marks alone have {len(ids)} tokens, more "
                f"than {self.where}.max_prompt = {limit}; raise it"
            )
        return ids

    def conversation(self, turns: Turns, response: str, limit: int) -> list[int]:
        """Token ids of turns and the response to them, which the template ends, at most `limit`.

        Those of a prompt are left out as by `prompt`; what is too long without them loses its first tokens.
        """
        what, answer = f"{self.key}, with the response {response!r:.60},", {"role": "assistant", "text": response}

        def encode(turns: Turns) -> list[int]:
            return self._ids([*turns, answer], what)

        ids = encode(turns)
        return ids if len(ids) <= limit else _shortened(turns, limit, encode)[-limit:]

    @cached_property
    def _shown(self) -> str:
        """A dialogue as the template writes it."""
        asked, said = {"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}
        shown = self._rendered([asked, said], self.key)
        if SAID not in shown:
            raise ParameterError(self.key, "leaves out what the assistant says; it must write every turn's content")
        return shown

    def _ids(self, turns: Turns, what: str, **options: bool) -> list[int]:
        messages = [
            {"role": ROLES.get(turn["role"], turn["role"]), "content": self.letters.shield(turn["text"])}
            for turn in turns
        ]
        text = self._rendered(messages, what, **options)
        return self.letters.encode([self.letters.unshield(self.letters.mark(text))])[0]

    def _rendered(self, messages: list[dict[str, str]], what: str, **options: bool) -> str:
        with faults.reading(lambda why: InputError(f"{what} does not take these turns: {why}")):
            return self.tokenizer.apply_chat_template(messages, chat_template=self.template, tokenize=False, **options)


def turns_of(prompt: str, turns: Turns | None) -> Turns:
    """The turns of a row; one without any has its prompt as the only one, of a human."""
    return turns or [{"role": "human", "text": prompt}]


def _shortened(turns: Turns, limit: int, encode: Callable[[Turns], list[int]]) -> list[int]:
    """`encode` of turns that are too many, less as many as give at most `limit` tokens, or less all that can go.

    The oldest after a system turn go first; of the last one, if need be, its first letters.
    """
    first = next((i for i, turn in enumerate(turns) if turn["role"] != "system"), len(turns) - 1)
    head, last = turns[:first], turns[-1]
    for start in range(first + 1, len(turns)):
        if turns[start]["role"] == "human" or turns[start] is last:  # templates want the user to begin
            ids = encode([*head, *turns[start:]])
            if len(ids) <= limit:
                return ids

    def without(count: int) -> list[int]:
        return encode([*head, {**last, "text": last["text"][count:]}])

    length = len(last["text"])
    return without(bisect_left(range(length), True, key=lambda count: len(without(count)) <= limit))


def too_long(row: dict[str, Any], length: int, limit: int, where: str) -> InputError:
    return InputError(
        f"prompt {row['prompt_id']} has {length} tokens, more than {where}.max_prompt = {limit}; "
        f"raise it (within the model's context) or set {where}.long_prompt: shorten"
    )
