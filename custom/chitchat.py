"""Rewards for the task chitchat: how positive a response is by two word lists of different origin, and its length.

`positive` is what policies are trained for. `positive_textblob` has weight 0: it tells whether a gain is one of the
response's sentiment or of one list's words alone. Both packages come with `make models`.
"""

from __future__ import annotations

import functools
from typing import Any

from alol.data.words import split

SHORTEST, LONGEST = 4, 25  # words of a response that cost nothing ...
WORST = 50  # ... and of one that costs 1, as does an empty one


def positive(prompt: list[str], response: list[str], context: list[dict]) -> list[float]:
    """VADER's compound score in [-1, 1] per response (Hutto and Gilbert 2014): -1 negative, 0 neutral, 1 positive."""
    return [_vader().polarity_scores(text)["compound"] for text in response]


def positive_textblob(prompt: list[str], response: list[str], context: list[dict]) -> list[float]:
    """The polarity in [-1, 1] per response by TextBlob's list, which is that of the library Pattern."""
    return [_textblob().analyze(text)[0] for text in response]


def length(prompt: list[str], response: list[str], context: list[dict]) -> list[float]:
    """A penalty in [-1, 0] per response: 0 for 4 to 25 words, falling linearly to -1 at 0 and at 50."""
    return [_band(len(split(text))) for text in response]


def _band(words: int) -> float:
    if words < SHORTEST:
        return words / SHORTEST - 1
    return max(-1.0, min(0.0, (LONGEST - words) / (WORST - LONGEST)))


@functools.cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@functools.cache
def _textblob() -> Any:
    from textblob.en.sentiments import PatternAnalyzer

    return PatternAnalyzer()
