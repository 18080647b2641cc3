"""How plausible a commonsense triple is: a classifier of the head against the relation, put in words, and the tail.

The input is that of the published critic (West et al. 2022, "Symbolic knowledge distillation"): a pair of sentences in
which the persons of the triple (PersonX, PersonY) have first names. Names are drawn from the seed and the head, so that
a triple always gets the same ones; with several draws the score is the mean over them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from alol.base.errors import InputError, known
from alol.rewards.classifier import ClassifierNetwork, ClassifierReward
from alol.rewards.components import Origin
from alol.rewards.folds import text
from alol.rewards.network import Encoded
from alol.rewards.options import Critic

DRAW = "draw"  # key of the context that says which draw of names is meant
# Common first names, of women and men in turn.
NAMES = (
    "Mary", "James", "Patricia", "Robert", "Jennifer", "John", "Linda", "Michael", "Elizabeth", "David", "Barbara",
    "William", "Susan", "Richard", "Jessica", "Joseph", "Karen", "Thomas", "Sarah", "Christopher", "Lisa", "Charles",
    "Nancy", "Daniel", "Sandra", "Matthew", "Betty", "Anthony", "Ashley", "Mark", "Emily", "Donald", "Kimberly",
    "Steven", "Margaret", "Andrew", "Donna", "Paul", "Michelle", "Joshua", "Carol", "Kenneth", "Amanda", "Kevin",
    "Melissa", "Brian", "Deborah", "George", "Stephanie", "Timothy", "Rebecca", "Ronald", "Laura", "Jason", "Helen",
    "Edward", "Sharon", "Jeffrey", "Cynthia", "Ryan", "Kathleen", "Jacob", "Amy", "Gary",
)  # fmt: skip


def sentences(options: Critic, where: str, response: str, context: dict[str, Any]) -> tuple[str, str]:
    """The pair of texts for one triple; raises InputError for a relation that `relations` lacks."""
    import ftfy

    head, relation = (text(f"context.{name}", where, "", response, context) for name in ("head", "relation"))
    if relation not in options.relations:
        raise known(f"relation in {where}.relations:", relation, options.relations)
    pair = [head.strip(), f"{options.relations[relation]} {response}"]
    for placeholder, name in persons(options, head.strip(), context.get(DRAW, 0)).items():
        pair = [part.replace(placeholder, name) for part in pair]
    return ftfy.fix_text(pair[0]), ftfy.fix_text(pair[1])


def persons(options: Critic, head: str, draw: int) -> dict[str, str]:
    """Placeholder -> first name, all different; equal for equal heads, seeds and draws on every machine."""
    digest = hashlib.blake2b(f"{options.names.seed} {draw} {head}".encode(), digest_size=16).digest()
    order = np.random.default_rng(int.from_bytes(digest, "big")).permutation(len(NAMES))
    return {placeholder: NAMES[i] for placeholder, i in zip(options.names.placeholders, order, strict=False)}


class CriticNetwork(ClassifierNetwork):
    """A classifier of pairs whose texts are made from triples; the response is the tail."""

    def encode(self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict]) -> list[Encoded]:
        rows = zip(responses, contexts, strict=True)
        pairs = [sentences(self._options, self._where, *row) for row in rows]
        return self.encode_texts([list(part) for part in zip(*pairs, strict=True)])


class CriticReward(ClassifierReward):
    """The component of kind `critic`."""

    network = CriticNetwork

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict], origin: Origin
    ) -> np.ndarray:
        """float64 [N]: the mean over the draws of names."""
        draws = self._options.names.draws
        if draws < 1:
            raise InputError(f"{self._where}.names.draws is {draws}; it must be at least 1")
        scores = [
            super(CriticReward, self).score(prompts, responses, [{**c, DRAW: draw} for c in contexts], origin)
            for draw in range(draws)
        ]
        return np.mean(scores, axis=0)
