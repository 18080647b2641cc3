"""Tf-idf of a response: how informative its words are among the training responses.

The words and weights are those of scikit-learn's CountVectorizer and TfidfTransformer with their defaults: lower-cased
words of two or more characters, idf = ln((1 + documents) / (1 + documents with the word)) + 1, L2-normalised vectors.
Its import takes as long as scoring some ten thousand responses, so the one pattern that is needed of it stands in
`alol.data.words`, which also finds the words of scripts that write no blanks between them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from alol.base.files import damaged, read_json, write_json
from alol.config.sections import Launch
from alol.data.words import content as words
from alol.rewards.components import Origin
from alol.rewards.options import Tfidf

STATE = "tfidf.json"  # word -> idf, in the component's folder


def fit(responses: Iterable[str]) -> dict[str, float]:
    """The smooth idf of every word of the responses."""
    documents, containing = 0, Counter()
    for response in responses:
        documents += 1
        containing.update(set(words(response)))
    return {word: math.log((1 + documents) / (1 + count)) + 1 for word, count in containing.items()}


def save(folder: Path, idf: dict[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / STATE, idf)


class TfidfReward:
    """Mean of the non-zero entries of the response's vector, times words / divisor for fewer than `few` distinct words.

    A response without a known word scores 0.
    """

    def __init__(self, where: str, options: Tfidf, folder: Path, launch: Launch) -> None:
        self._options, self._idf = options, read_json(folder / STATE, dict[str, float])
        if not self._idf:
            raise damaged(folder / STATE, "it holds no word")

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict], origin: Origin
    ) -> np.ndarray:
        """float64 [N], in [0, 1]."""
        return np.array([self._one(response) for response in responses], np.float64)

    def _one(self, response: str) -> float:
        counts = Counter(word for word in words(response) if word in self._idf)
        entries = [count * self._idf[word] for word, count in counts.items()]
        if not entries:
            return 0.0
        mean = math.fsum(entries) / len(entries) / math.sqrt(math.fsum(entry * entry for entry in entries))
        return mean * len(entries) / self._options.divisor if len(entries) < self._options.few else mean
