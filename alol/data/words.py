"""Words of a text: what stands between blanks; in scripts that write none, what Unicode's rules (UAX 29) take apart.

These rules know no dictionary: a word is a Han or Hiragana character, a run of Katakana, a letter with its marks in
Thai, Lao, Khmer and Burmese, a syllable in Tibetan. So do the usual measures of Chinese and Japanese text, by
character; a segmenter with a dictionary finds fewer and longer words.
"""

from __future__ import annotations

import re

import regex

# Line_Break=SA: Thai, Lao, Khmer, Burmese and their like
BLANKLESS = regex.compile(r"[\p{Han}\p{Ideographic}\p{Hiragana}\p{Katakana}ー\p{Tibetan}\p{Line_Break=SA}]")
BOUNDARY = regex.compile(r"(?V1w)\b")
LONG = re.compile(r"\b\w\w+\b")


def without_blanks(text: str) -> bool:
    """Whether something of the text is in a script without blanks between words."""
    return not text.isascii() and BLANKLESS.search(text) is not None


def split(text: str) -> list[str]:
    """The words in order: as `str.split` gives them but for those of scripts without blanks, which lose punctuation."""
    if not without_blanks(text):
        return text.split()
    parts = (BOUNDARY.split(found) if without_blanks(found) else [found] for found in text.split())
    return [word for found in parts for word in found if len(found) == 1 or any(map(str.isalnum, word))]


def content(text: str) -> list[str]:
    """Lower-cased words of two or more letters, as scikit-learn finds them; in scripts without blanks all of them."""
    lowered = text.lower()
    if not without_blanks(lowered):
        return LONG.findall(lowered)
    return [word for one in split(lowered) for word in ([one] if without_blanks(one) else LONG.findall(one))]
