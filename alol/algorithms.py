"""Every algorithm that `algorithm=` can name."""

from __future__ import annotations

import inspect

from alol.errors import known
from alol.losses.offline import OFFLINE, Algorithm
from alol.losses.pairs import PAIRS

ALGORITHMS = {**OFFLINE, **PAIRS}
TENSORS = {"logp", "mask", "ref_logp", "reward", "raw_reward", "advantage"}


def get(name: str) -> Algorithm:
    """The algorithm of that name; raises InputError naming those there are."""
    if name not in ALGORITHMS:
        raise known("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]


def hyperparameters(name: str) -> set[str]:
    """The keys of an algorithm's entry in params.yaml: the arguments of its loss that are no tensors."""
    return set(inspect.signature(get(name).loss).parameters) - TENSORS
