"""How large the measurements are: as published in the documentation, or tiny, for the tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Of all measurements. The policy has GPT-2's shape."""

    task: str  # whose texts are used
    texts: int  # training prompts
    layers: int
    width: int
    heads: int
    words: int  # of the tokenizer
    vocabularies: tuple[int, ...]  # of the models; the larger ones have rows for words that do not come up
    max_prompt: int
    max_response: int
    batch: int  # examples of one update
    updates: int
    prompts: int  # answered by generate
    new_tokens: int
    scored: int
    rows: int  # of the smaller table of the streaming measurement
    trained: int  # of the smaller table that updates are drawn from
    repeats: int


FULL = Size(
    task="hha_small", texts=1200, layers=4, width=256, heads=8, words=8192, vocabularies=(50257, 8192),
    max_prompt=512, max_response=128, batch=8, updates=8, prompts=400, new_tokens=64, scored=400, rows=30000,
    trained=300_000, repeats=2,
)  # fmt: skip
TINY = Size(
    task="demo", texts=60, layers=1, width=32, heads=4, words=400, vocabularies=(420,),
    max_prompt=96, max_response=24, batch=4, updates=3, prompts=10, new_tokens=6, scored=12, rows=160, trained=4000,
    repeats=2,
)  # fmt: skip
