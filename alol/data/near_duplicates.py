"""Training prompts that hardly differ from held-out ones: left out, or a test would ask what was trained on.

Two prompts are as alike as their sets of word n-grams: the Jaccard index, the share of what either has that both have
(Broder 1997). It is exact: held-out prompts are indexed by n-gram, and training prompts stream past, so that memory
grows with the held-out prompts alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator

from alol.config.sections import NearDuplicates
from alol.data.compact_sets import Key, digest
from alol.data.formats import Row
from alol.data.words import content

logger = logging.getLogger(__name__)


class HeldOut:
    """Held-out prompts, and how like them others are."""

    def __init__(self, words: int) -> None:
        self._words = words
        self._sizes: list[int] = []
        self._names: list[str] = []
        self._having: dict[Key, list[int]] = {}  # n-gram -> the prompts that have it

    def add(self, name: str, prompt: str) -> None:
        grams = ngrams(prompt, self._words)
        for gram in grams:
            self._having.setdefault(gram, []).append(len(self._sizes))
        self._sizes.append(len(grams))
        self._names.append(name)

    def likest(self, prompt: str) -> tuple[float, str]:
        """The largest similarity, from 0 to 1, and the name of the held-out prompt that has it; (0.0, "") for none."""
        grams = ngrams(prompt, self._words)
        shared = Counter(i for gram in grams for i in self._having.get(gram, ()))
        found = ((count / (len(grams) + self._sizes[i] - count), self._names[i]) for i, count in shared.items())
        return max(found, default=(0.0, ""), key=lambda one: one[0])

    def without(self, rows: Iterable[Row], split: str, settings: NearDuplicates) -> Iterator[Row]:
        """The rows whose prompts are less similar than `settings` allow; says how many are left out."""
        prompts, left_out, current, keep = 0, [], None, True
        for row in rows:
            if row["prompt_id"] != current:
                current = row["prompt_id"]
                similarity, name = self.likest(row["prompt"])
                keep = similarity < settings.similarity
                prompts += 1
                if not keep:
                    left_out.append((current, name, similarity))
            if keep:
                yield row
        example = "; the first: {} is like {} ({:.2f})".format(*left_out[0]) if left_out else ""
        logger.info(
            "%s: %d of %d prompts left out, which are near-duplicates of held-out ones (a similarity of %g or more%s)",
            *(split, len(left_out), prompts, settings.similarity, example),
        )


def ngrams(text: str, words: int) -> set[Key]:
    """Digests of the text's runs of `words` lower-cased words; of all its words where it has fewer."""
    found = content(text)
    starts = range(max(1, len(found) - words + 1))
    return {digest(" ".join(found[start : start + words])) for start in starts}
