"""Text to token ids: prompts cut at their oldest turns, responses followed by the end-of-text token, or as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from alol.base.errors import InputError
from alol.config.sections import Policy


@dataclass(frozen=True)
class Encoder:
    """A tokenizer with the lengths of `policy` in the task's file."""

    tokenizer: PreTrainedTokenizerBase
    policy: Policy

    def prompts(self, rows: Sequence[dict]) -> list[list[int]]:
        """Token ids of each row's `prompt`, at most `max_prompt`, special tokens included.

        A longer prompt loses its oldest turns (at the row's `cuts`), then its leftmost tokens. What stands before the
        first cut is kept; when it fills `max_prompt` by itself, its first tokens are, and half is left to the last
        turn. With `long_prompt: refuse` it raises InputError instead.
        """
        if not rows:
            return []
        encoded = self.tokenizer([row["prompt"] for row in rows])["input_ids"]
        limit = self.policy.max_prompt
        return [
            ids if len(ids) <= limit else self._shorten(row, len(ids)) for row, ids in zip(rows, encoded, strict=True)
        ]

    def responses(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each response, cut on the right at `max_response`.

        With `end_of_text` that token follows, and may be what is cut.
        """
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        end = [self.tokenizer.eos_token_id] if self.policy.end_of_text else []
        return [[*ids, *end][: self.policy.max_response] for ids in encoded]

    def _shorten(self, row: dict, length: int) -> list[int]:
        limit = self.policy.max_prompt
        if self.policy.long_prompt == "refuse":
            raise InputError(
                f"prompt {row['prompt_id']} has {length} tokens, more than policy.max_prompt = {limit}; "
                "raise it (within the model's context) or set policy.long_prompt: shorten"
            )
        prompt, cuts = row["prompt"], row["cuts"] or [0]
        kept = prompt[: cuts[0]]
        for start in cuts[1:]:
            ids = self.tokenizer(kept + prompt[start:])["input_ids"]
            if len(ids) <= limit:
                return ids
        head = self.tokenizer(kept)["input_ids"]
        tail = self.tokenizer(prompt[cuts[-1] :], add_special_tokens=False)["input_ids"]
        if len(head) >= limit:
            head = head[: limit // 2]
        return head + tail[len(head) - limit :]
