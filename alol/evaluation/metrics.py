"""Numbers about texts and about samples of rewards: diversity, METEOR, intervals and p-values.

Plain functions of lists and arrays; what is measured on which rows is decided in `alol.evaluation.summary`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alol.data.words import split as words

Array = NDArray[np.float64]
CHUNK = 1 << 21  # random numbers held at once
PERCENTILES = (0, 10, 25, 50, 75, 90, 100)


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams of the texts pooled (Li et al. 2016), lower-cased; 0 when there is none."""
    grams: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        tokens = words(text.lower())
        found = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        grams.update(found)
        total += len(found)
    return len(grams) / total if total else 0.0


class _Stemmer(Protocol):
    def stem(self, word: str) -> str: ...


class _CachedStemmer:
    """Porter's stemmer; texts repeat their words, so every word is stemmed once."""

    def __init__(self, stemmer: _Stemmer) -> None:
        self.stem = cache(stemmer.stem)


class _NoSynonyms:
    """Stands in for WordNet, which is a download: METEOR then matches words and stems alone."""

    def synsets(self, word: str) -> list[object]:
        return []


def meteor_stem(responses: Sequence[str], references: Sequence[str]) -> list[float]:
    """METEOR (Banerjee and Lavie 2005; nltk's constants) of each response, in [0, 1], without synonyms."""
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.meteor_score import single_meteor_score

    stemmer, wordnet = _CachedStemmer(PorterStemmer()), _NoSynonyms()
    return [
        float(single_meteor_score(words(reference), words(response), stemmer=stemmer, wordnet=wordnet))
        for response, reference in zip(responses, references, strict=True)
    ]


def length(responses: Sequence[str], references: Sequence[str]) -> list[float]:
    """The number of words of each response."""
    return [len(words(response)) for response in responses]


# Metrics of every task, in the order of the tables: a number for each response, from the responses and the gold
# responses to the same prompts. What needs more than texts belongs to a format (alol.data.formats.Format.metrics).
METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], list[float]]] = {
    "length": length,
    "meteor_stem": meteor_stem,
}


def _chunks(draws: int, width: int) -> Iterator[int]:
    """Sizes that add up to `draws`, each small enough for size x width numbers in memory."""
    size = max(1, CHUNK // max(1, width))
    for start in range(0, draws, size):
        yield min(size, draws - start)


def clusters(names: Sequence[Hashable]) -> Array:
    """A number for each name, equal ones for equal names, from 0 in the order in which names first come."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def bootstrap_interval(
    groups: Sequence[Array], draws: int, seed: int, members: Sequence[Array] | None = None
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over groups of each group's mean.

    Each group is resampled with replacement by itself; one group gives the ordinary interval of a mean. `members` has
    the cluster of each value: whole clusters are drawn, as many as there are (the cluster bootstrap), and the mean is
    the sum of the values drawn over their number. None: each value is a cluster.
    """
    generator = np.random.default_rng(seed)
    means = np.zeros(draws)
    for i, group in enumerate(groups):
        own = clusters(range(len(group)) if members is None else members[i].tolist())
        sums, counts = np.bincount(own, weights=group), np.bincount(own)
        start = 0
        for size in _chunks(draws, len(sums)):
            index = generator.integers(0, len(sums), (size, len(sums)))
            means[start : start + size] += sums[index].sum(axis=1) / counts[index].sum(axis=1) / len(groups)
            start += size
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def sign_flip_p(groups: Sequence[Array], draws: int, seed: int, members: Sequence[Array] | None = None) -> float:
    """Two-sided p-value of paired differences under random signs; the statistic is the mean of the groups' means.

    Exact, by going through every combination of signs, where these are no more than `draws`; otherwise
    (1 + hits) / (1 + draws) of seeded draws. 1.0 when all differences are 0. `members` has the cluster of each
    difference: those of a cluster share a sign, in whichever groups they are. None: each is a cluster.
    """
    weighted = np.concatenate([group / (len(group) * len(groups)) for group in groups])
    if not weighted.any():
        return 1.0
    scale = float(np.abs(weighted).sum())
    if members is not None:
        weighted = np.bincount(clusters(np.concatenate(members).tolist()), weights=weighted)
    threshold = abs(float(weighted.sum())) - 1e-9 * scale  # sums in another order must still count as equal
    if len(weighted) < 60 and 2 ** len(weighted) <= draws:
        bits = np.arange(2 ** len(weighted))[:, None] >> np.arange(len(weighted)) & 1
        return float((np.abs((2 * bits - 1) @ weighted) >= threshold).mean())
    generator = np.random.default_rng(seed)
    hits = 0
    for size in _chunks(draws, len(weighted)):
        bits = generator.integers(0, 2, (size, len(weighted)), dtype=np.int8)
        # The sum over signs is twice the sum over the positive ones, less the sum of all.
        hits += int((np.abs(2 * (bits @ weighted) - weighted.sum()) >= threshold).sum())
    return (1 + hits) / (1 + draws)


def percentiles(values: Array) -> list[float]:
    """The values at PERCENTILES."""
    return [float(value) for value in np.percentile(values, PERCENTILES)]
