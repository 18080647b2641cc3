"""Every algorithm that `algorithm=` can name."""

from __future__ import annotations

import typing
from typing import Any

from alol.algorithms import ppo
from alol.algorithms.offline import OFFLINE, Algorithm
from alol.algorithms.pairs import PAIRS
from alol.algorithms.rivals import RIVALS
from alol.base.errors import known
from alol.config import build

FROM_DATA = {**OFFLINE, **RIVALS, **PAIRS}  # one loop, alol.training.loop.fit
ONLINE = {"ppo": ppo.Options}  # a loop of its own, and the options that it takes
NAMES = (*FROM_DATA, *ONLINE)
TENSORS = {"logp", "mask", "ref_logp", "reward", "raw_reward", "advantage", "ref_rewards"}


def get(name: str) -> Algorithm | None:
    """The algorithm of that name, None for an online one; raises InputError naming those there are."""
    if name not in NAMES:
        raise known("algorithm", name, NAMES)
    return FROM_DATA.get(name)


def hyperparameters(name: str) -> dict[str, Any]:
    """The keys of its entry in params.yaml and their types, which carry ranges.

    They are the arguments of its loss that are no tensors, or its options.
    """
    algorithm = get(name)
    if algorithm is None:
        return build.fields(ONLINE[name])
    hints = typing.get_type_hints(algorithm.loss, localns={"Tensor": object}, include_extras=True)
    return {key: hint for key, hint in hints.items() if key not in (*TENSORS, "return")}


def checked(name: str, given: Any) -> dict[str, Any]:
    """The hyperparameters of an algorithm from its entry in params.yaml; raises ParameterError naming the key."""
    hints, where = hyperparameters(name), f"algorithms.{name}"
    build.check_keys(given, set(hints), set(hints), where)
    return build.values(hints, given, where)
