"""Text to token ids: prompts cut at their oldest turns, responses followed by the token that ends them, or as they are.

Only a format's or a template's own marks become special tokens; what users' texts spell is letters.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from alol.models.letters import Letters
from alol.models.templates import POLICY, TEXT, Chat, Lengths, own, too_long


@dataclass(frozen=True)
class Encoder:
    """A tokenizer with a template and lengths: those of `policy` in the task's file, or of a reward's table `where`.

    A template from a file must be the tokenizer's own by now (alol.models.templates.keep), as the reference's is.
    `named` are the end tokens that the model's files name: they too are letters in texts of users, even those that the
    tokenizer does not call special.
    """

    tokenizer: PreTrainedTokenizerBase
    policy: Lengths
    named: Collection[int] = ()
    where: str = POLICY

    def prompts(self, rows: Sequence[dict]) -> list[list[int]]:
        """Token ids of each row's `prompt`, at most `max_prompt`, special tokens included.

        With a template other than `text` they are those of the row's turns: alol.models.templates.Chat.prompt.

        A longer prompt loses its oldest turns (at the row's `cuts`), then its leftmost tokens. What stands before the
        first cut is kept; when it fills `max_prompt` by itself, its first tokens are, and half is left to the last
        turn. With `long_prompt: refuse` it raises InputError instead.
        """
        limit = self.policy.max_prompt
        if self._chat is not None:
            return [self._chat.prompt(row, limit, self.policy.long_prompt == "refuse") for row in rows]
        encoded = self._letters.encode([_written(self._letters, row) for row in rows])
        enclosed = [self._enclosed(ids) for ids in encoded]
        return [
            ids if len(ids) <= limit else self._shorten(row, len(ids)) for row, ids in zip(rows, enclosed, strict=True)
        ]

    def responses(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each response, cut on the right at `max_response`.

        With `end_of_text` that token follows, or the template's own end of turn, and may be what is cut.
        """
        ending = self._chat.ending if self._chat is not None else None
        if ending is not None and self.policy.end_of_text:
            encoded = self._letters.encode([text + ending[0] for text in texts])
            return [ids[: self.policy.max_response] for ids in encoded]
        encoded = self._letters.encode(texts)
        end = [self.tokenizer.eos_token_id] if self.policy.end_of_text else []
        return [[*ids, *end][: self.policy.max_response] for ids in encoded]

    @property
    def ends(self) -> list[int]:
        """The template's end of turn, which ends a response beside the tokens that the model's files name."""
        ending = self._chat.ending if self._chat is not None else None
        return [] if ending is None else [ending[1]]

    @cached_property
    def _chat(self) -> Chat | None:
        if self.policy.template == TEXT:
            return None
        return Chat(self.tokenizer, own(self.tokenizer, f"{self.where}.template"), self._ends, self.where)

    @cached_property
    def _ends(self) -> frozenset[str]:
        """Those of `named` that the tokenizer finds in any text."""
        added = self.tokenizer.added_tokens_decoder
        return frozenset(added[i].content for i in self.named if i in added)

    @cached_property
    def _letters(self) -> Letters:
        return Letters(self.tokenizer, self._ends) if self._chat is None else self._chat.letters

    def _enclosed(self, ids: list[int]) -> list[int]:
        """With what the tokenizer puts around a text; a prompt that has its begin token gets no second one."""
        before, after = self._letters.around
        begins = ids[:1] == before[-1:] and ids[:1] == [self.tokenizer.bos_token_id]
        return [*(before[:-1] if begins else before), *ids, *after]

    def _shorten(self, row: dict, length: int) -> list[int]:
        limit, letters = self.policy.max_prompt, self._letters
        if self.policy.long_prompt == "refuse":
            raise too_long(row, length, limit, self.where)
        cuts = row["cuts"] or [0]
        kept = _written(letters, row, 0, cuts[0])
        for start in cuts[1:]:
            ids = self._enclosed(letters.encode([kept + _written(letters, row, start)])[0])
            if len(ids) <= limit:
                return ids
        head, tail = letters.encode([kept, _written(letters, row, cuts[-1])])
        head, closing = self._enclosed(head), letters.around[1]
        head = head[: len(head) - len(closing)]
        room = max(0, limit - len(closing))
        if len(head) >= room:
            head = head[: room // 2]
        return head + tail[max(0, len(tail) - (room - len(head))) :] + closing[-limit:]


def _written(letters: Letters, row: dict, start: int = 0, end: int | None = None) -> str:
    """A part of a row's prompt for `letters`, its marks as such."""
    end = len(row["prompt"]) if end is None else end
    places = [min(max(place, start), end) - start for place in row.get("marks") or ()]
    return letters.marked(row["prompt"][start:end], places)
