"""Encodes texts so that only a format's own marks become special tokens; what a user's text spells stays letters.

A tokenizer reads `</s>` in a text as the end of text. Here its special tokens are renamed to secret names, which no
text contains, and marks are written with these names before the text is encoded. Nothing else about the tokenizer
changes.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tokenizers import Encoding, Tokenizer

if TYPE_CHECKING:  # `stages.check` does without
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Letters:
    """A tokenizer whose special tokens, and those of its added tokens that `more` lists, have secret names."""

    tokenizer: PreTrainedTokenizerBase
    more: Collection[str] = ()
    key: str = field(default_factory=lambda: secrets.token_hex(8))

    @cached_property
    def ids(self) -> dict[str, int]:
        """The tokens with secret names, by their usual names: only marks are encoded as these."""
        added = self.tokenizer.added_tokens_decoder
        return {
            token.content: i
            for i, token in added.items()
            if (token.special or token.content in self.more) and token.content not in self._words
        }

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """A pattern that finds any of these tokens in a text, the longest first, as the tokenizer does."""
        return re.compile("|".join(map(re.escape, sorted(self.ids, key=len, reverse=True))) or "(?!)")

    def mark(self, text: str) -> str:
        """Makes every special token that `text` spells a mark: replaces it with its secret name."""
        return self._pattern.sub(lambda found: self._secret(found[0]), text)

    def first(self, text: str) -> re.Match[str] | None:
        """Finds the first special token that `text` spells."""
        return self._pattern.search(text)

    def marked(self, text: str, marks: Sequence[int]) -> str:
        """Applies `mark` to those parts of `text` that `marks` delimit (begin, end, begin, end, ...)."""
        pieces = [text[start:end] for start, end in pairwise([0, *marks, len(text)])]
        return "".join(self.mark(piece) if i % 2 else piece for i, piece in enumerate(pieces))

    def shield(self, text: str) -> str:
        """Changes `text` so that `mark` finds nothing in it; `unshield` undoes this, also in a longer text."""
        return self._pattern.sub(lambda found: found[0][0] + self._shield + found[0][1:], text)

    def unshield(self, text: str) -> str:
        return text.replace(self._shield, "")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes texts with marks to token ids, without the tokens that the tokenizer puts around a text."""
        if self._backend is None:
            return [self._piecewise(text) for text in texts]
        return [row.ids for row in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encodings(self, texts: Sequence[str]) -> list[Encoding]:
        """Encodes as `encode` does, to the Encodings of a fast tokenizer, which can be truncated and joined."""
        if self._backend is None:
            raise ValueError("a tokenizer in Python has no encodings")
        return self._backend.encode_batch(list(texts), add_special_tokens=False)

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The token ids that the tokenizer puts before and after every text."""
        plain, full = (self.tokenizer("a", add_special_tokens=more)["input_ids"] for more in (False, True))
        start = next(i for i in range(len(full) + 1) if full[i : i + len(plain)] == plain)
        return full[:start], full[start + len(plain) :]

    @property
    def _shield(self) -> str:
        return f"{self.key}|"  # stands in no secret name

    def _secret(self, content: str) -> str:
        return f"<{self.key}-{self.ids[content]}>"

    @cached_property
    def _words(self) -> set[str]:
        """Special tokens that are ordinary text too, such as a `!` that pads or a line's end: they keep their names."""
        model = self._spec["model"]
        if model["type"] == "Unigram":
            return {piece for piece, score in model["vocab"] if score}  # what only marks are has none
        merges = {
            "".join(pair) if isinstance(pair, list) else pair.replace(" ", "") for pair in model.get("merges", ())
        }
        bytes_ = {f"<0x{byte:02X}>" for byte in range(256)} if model.get("byte_fallback") else set()
        return merges | bytes_ | {token for token in model["vocab"] if len(token) == 1}

    @cached_property
    def _spec(self) -> dict[str, Any]:
        """A fast tokenizer as JSON; for a slow one, written in Python, an empty model."""
        if not self.tokenizer.is_fast:
            return {"model": {"type": None, "vocab": {}}}
        return json.loads(self.tokenizer.backend_tokenizer.to_str())

    @cached_property
    def _backend(self) -> Tokenizer | None:
        """The fast tokenizer with the secret names; None for a slow one, written in Python."""
        if not self.tokenizer.is_fast:
            return None
        names, spec = {content: self._secret(content) for content in self.ids}, self._spec
        model = spec["model"]
        for token in spec["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        if isinstance(model["vocab"], list):
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        else:
            model["vocab"] = {names.get(piece, piece): i for piece, i in model["vocab"].items()}
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        spec["truncation"] = spec["padding"] = None
        backend = Tokenizer.from_str(json.dumps(spec))
        backend.encode_special_tokens = False
        if moved := [name for name, i in self.ids.items() if backend.token_to_id(names[name]) != i]:
            raise ValueError(f"the tokens {moved} got other ids")
        return backend

    def _piecewise(self, text: str) -> list[int]:
        """Encodes with a slow tokenizer: marks become their ids, the text between them is encoded as letters."""
        secrets = {self._secret(content): i for content, i in self.ids.items()}
        ids: list[int] = []
        for piece in _split(text, secrets):
            letters = self.tokenizer(piece, add_special_tokens=False, split_special_tokens=True)
            ids += [secrets[piece]] if piece in secrets else letters["input_ids"]
        return ids


def _split(text: str, names: Iterable[str]) -> list[str]:
    """Splits `text` at the names; each name is a piece of its own, and no piece is empty."""
    return [piece for piece in re.split("(" + ("|".join(map(re.escape, names)) or "(?!)") + ")", text) if piece]
