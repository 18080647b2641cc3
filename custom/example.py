"""An example of a reward function of one's own; copy it and change what it computes.

A task names it in its file (`kind: python`, `function: custom.example.concise`, and the bounds `low` and `high` of
what it returns). Editing this folder makes the pipeline score the responses again.
"""

from __future__ import annotations

from alol.data.words import split

FREE_WORDS = 20  # a response up to this long costs nothing ...
WORST_WORDS = 45  # ... and one of this length or longer costs 1


def concise(prompt: list[str], response: list[str], context: list[dict]) -> list[float]:
    """A penalty in [-1, 0] per response: 0 up to 20 words, falling linearly to -1 at 45; -1 for an empty response."""
    return [_penalty(len(split(text))) for text in response]


def _penalty(words: int) -> float:
    if words == 0:
        return -1.0
    return max(-1.0, min(0.0, (FREE_WORDS - words) / (WORST_WORDS - FREE_WORDS)))
