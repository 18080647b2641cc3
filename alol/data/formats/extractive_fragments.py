"""Extractive fragments (Grusky, Naaman and Artzi 2018, "Newsroom"): how much of a response is copied from its source.

Going through the response from the left, the longest run of words that also stands somewhere in the source is a
fragment, and the search goes on behind it. `legacy` leaves out fragments of one word, as the published figures do.
"""

from __future__ import annotations

from collections.abc import Sequence


def fragments(source: Sequence[str], response: Sequence[str], legacy: bool) -> list[int]:
    """Lengths of the fragments, in words. Case matters."""
    starts: dict[str, list[int]] = {}
    for j, word in enumerate(source):
        starts.setdefault(word, []).append(j)
    found, i = [], 0
    while i < len(response):
        longest = max((_run(source[j:], response[i:]) for j in starts.get(response[i], ())), default=0)
        if longest > legacy:
            found.append(longest)
        i += max(1, longest)
    return found


def _run(source: Sequence[str], response: Sequence[str]) -> int:
    """Words that both start with."""
    for length, (a, b) in enumerate(zip(source, response, strict=False)):
        if a != b:
            return length
    return min(len(source), len(response))


def coverage(source: Sequence[str], response: Sequence[str], legacy: bool) -> float:
    """The share of the response's words that stand in fragments; 0 for an empty response."""
    return sum(fragments(source, response, legacy)) / len(response) if response else 0.0


def density(source: Sequence[str], response: Sequence[str], legacy: bool) -> float:
    """The sum of the fragments' squared lengths over the response's length; 0 for an empty response."""
    return sum(n * n for n in fragments(source, response, legacy)) / len(response) if response else 0.0
