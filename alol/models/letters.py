"""Text to token ids in which only marks are special tokens: what a user's text spells is letters, whatever it spells.

A tokenizer reads `</s>` in a text as the end of text. Here its special tokens have names that no text holds, and marks
are written with these names before the rest is encoded; so all else about the tokenizer stays as it is.
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
    """`tokenizer` with secret names for its special tokens, and for `more` of its added ones."""

    tokenizer: PreTrainedTokenizerBase
    more: Collection[str] = ()
    key: str = field(default_factory=lambda: secrets.token_hex(8))

    @cached_property
    def ids(self) -> dict[str, int]:
        """The tokens that only marks are read as."""
        added = self.tokenizer.added_tokens_decoder
        return {
            token.content: i
            for i, token in added.items()
            if (token.special or token.content in self.more) and token.content not in self._words
        }

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Any of them, the longest first, as the tokenizer looks for them."""
        return re.compile("|".join(map(re.escape, sorted(self.ids, key=len, reverse=True))) or "(?!)")

    def mark(self, text: str) -> str:
        """`text` with the special tokens that it spells as such."""
        return self._pattern.sub(lambda found: self._secret(found[0]), text)

    def first(self, text: str) -> re.Match[str] | None:
        """The first special token that `text` spells."""
        return self._pattern.search(text)

    def marked(self, text: str, marks: Sequence[int]) -> str:
        """`text`, of which the parts that `marks` delimit (begin, end, begin, end, ...) may be special tokens."""
        pieces = [text[start:end] for start, end in pairwise([0, *marks, len(text)])]
        return "".join(self.mark(piece) if i % 2 else piece for i, piece in enumerate(pieces))

    def shield(self, text: str) -> str:
        """`text` so that `mark` finds nothing in it; `unshield` undoes this, in any text that it has become part of."""
        return self._pattern.sub(lambda found: found[0][0] + self._shield + found[0][1:], text)

    def unshield(self, text: str) -> str:
        return text.replace(self._shield, "")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts in which marks are written; nothing is added before or after."""
        if self._backend is None:
            return [self._piecewise(text) for text in texts]
        return [row.ids for row in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encodings(self, texts: Sequence[str]) -> list[Encoding]:
        """As `encode`, of a tokenizer that is not written in Python, which can shorten and join what it gets."""
        if self._backend is None:
            raise ValueError("a tokenizer in Python has no encodings")
        return self._backend.encode_batch(list(texts), add_special_tokens=False)

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after every text: its begin token, its closing one."""
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
        """Tokens that ordinary text is written with: of these, `!` may pad and a line's end may end a response."""
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
        """The tokenizer as JSON; of one in Python, nothing."""
        if not self.tokenizer.is_fast:
            return {"model": {"type": None, "vocab": {}}}
        return json.loads(self.tokenizer.backend_tokenizer.to_str())

    @cached_property
    def _backend(self) -> Tokenizer | None:
        """The tokenizer with the secret names; None for one that is written in Python."""
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
        """Of a tokenizer in Python: marks by their ids, what stands between them as letters."""
        secrets = {self._secret(content): i for content, i in self.ids.items()}
        ids: list[int] = []
        for piece in _split(text, secrets):
            letters = self.tokenizer(piece, add_special_tokens=False, split_special_tokens=True)
            ids += [secrets[piece]] if piece in secrets else letters["input_ids"]
        return ids


def _split(text: str, names: Iterable[str]) -> list[str]:
    """Pieces of `text`, none empty, of which each name is one."""
    return [piece for piece in re.split("(" + ("|".join(map(re.escape, names)) or "(?!)") + ")", text) if piece]
