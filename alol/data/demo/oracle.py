"""The demo's true quality of a response: an oracle that knows the answers and judges any text, a generation too.

It is a metric alone. No reward component reads it, nor the keys of `context` that it needs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from alol.base.errors import InputError

RIGHT, EVASION, ERROR = 0.7, 0.25, 0.05  # quality of a bare answer
RIGHT_POLITENESS, ERROR_POLITENESS = 0.3, 0.1  # what politeness adds to a right and to a wrong answer
HEDGING = 0.25  # what evasion takes from a right answer
RUDE_SHARE = 0.1  # what is left of the quality of a rude response
RAMBLING_SHARE = 0.5  # what is left of it when a response rambles as badly as can be
FREE_WORDS, RAMBLING_WORDS = 20, 32  # rambling grows between these lengths

_POLITE = "certainly|of course|happy to|glad|gladly|thank you|thanks|please|good question|welcome|hope this|nice day"
_EVASIVE = "not sure|do(?: not|n't) know|no idea|can(?:not|'t) say|hard to say|depends|look it up|some(?:body|one) else"
_RUDE = "stupid|dumb|idiot|fool|lazy|who cares|go away|shut up|bothering|waste my time"
POLITE, EVASIVE, RUDE = (re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for words in (_POLITE, _EVASIVE, _RUDE))


def quality(prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict]) -> list[float]:
    """True quality in [0, 1] of each response, by the `accepted` and `rejected` answers of its context.

    Right and polite is 1, right and curt 0.7, right but rambling 0.5, evasive 0.25, wrong but polite 0.15, wrong 0.05,
    rude at most 0.1, empty 0. Raises InputError for a context without the answers.
    """
    return [_quality(*row) for row in zip(prompts, responses, contexts, strict=True)]


def _quality(prompt: str, response: str, context: dict) -> float:
    if missing := {"accepted", "rejected"} - set(context):
        raise InputError(f"metric quality: the context lacks {sorted(missing)}; it works on the demo's rows alone")
    words = response.lower().split()
    if not words:
        return 0.0
    right, named = judge(prompt, response, context["accepted"], context["rejected"])
    polite, evasive = POLITE.search(response) is not None, EVASIVE.search(response) is not None
    if right:
        score = RIGHT + RIGHT_POLITENESS * polite - HEDGING * evasive
    elif evasive and not named:
        score = EVASION
    else:
        score = ERROR + ERROR_POLITENESS * polite
    if RUDE.search(response):
        score *= RUDE_SHARE
    return score * (1.0 - (1.0 - RAMBLING_SHARE) * rambling(words))


def judge(prompt: str, response: str, accepted: list[str], rejected: list[str]) -> tuple[bool, bool]:
    """Whether the response is right, and whether it names any answer.

    It is right when the first answer it names is an accepted one and every rejected one it names is in the prompt:
    "the elephant is bigger than the mouse" is right, a list of all capitals is not.
    """
    good, bad = _found(response, accepted), _found(response, rejected)
    stray = set(bad) - set(_found(prompt, rejected))
    right = bool(good) and not stray and min(good.values()) < min(bad.values(), default=len(response))
    return right, bool(good or bad)


def _found(text: str, answers: list[str]) -> dict[str, int]:
    """The answers that occur in the text as whole words -> where they first do."""
    folded = text.casefold()  # most answers are not in it at all, which a plain search knows sooner
    matches = {answer: _word(answer).search(text) for answer in answers if answer.casefold() in folded}
    return {answer: match.start() for answer, match in matches.items() if match}


@cache
def _word(answer: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.IGNORECASE)


def rambling(words: Sequence[str]) -> float:
    """In [0, 1]: the larger of the excess length and the share of word trigrams that repeat an earlier one."""
    length = min(max((len(words) - FREE_WORDS) / (RAMBLING_WORDS - FREE_WORDS), 0.0), 1.0)
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    repeated = 1.0 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0
    return max(length, repeated)
