"""Every algorithm that `algorithm=` can name."""

from __future__ import annotations

import dataclasses
import inspect

from alol.algorithms import ppo
from alol.algorithms.offline import OFFLINE, Algorithm
from alol.algorithms.pairs import PAIRS
from alol.base.errors import known

FROM_DATA = {**OFFLINE, **PAIRS}  # one loop, alol.training.loop.fit
ONLINE = {"ppo": ppo.Options}  # a loop of its own, and the options that it takes
NAMES = (*FROM_DATA, *ONLINE)
TENSORS = {"logp", "mask", "ref_logp", "reward", "raw_reward", "advantage"}


def get(name: str) -> Algorithm | None:
    """The algorithm of that name, None for an online one; raises InputError naming those there are."""
    if name not in NAMES:
        raise known("algorithm", name, NAMES)
    return FROM_DATA.get(name)


def hyperparameters(name: str) -> set[str]:
    """The keys of its entry in params.yaml: the arguments of its loss that are no tensors, or its options."""
    algorithm = get(name)
    if algorithm is None:
        return {field.name for field in dataclasses.fields(ONLINE[name])}
    return set(inspect.signature(algorithm.loss).parameters) - TENSORS
