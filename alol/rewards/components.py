"""A task's components together: scoring with checks, and the total reward.

A component's scores are checked where they arise: their number, that they are finite, and that they keep the declared
bounds, since the value head and the algorithms that need R >= 0 build on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from alol.base.errors import InputError

# Whose texts are scored. generated: a model's own. source: the data's, whose stored scores may be used. train: the
# data's, to be scored by models that did not see the prompts.
Origin = Literal["generated", "source", "train"]
Bounds = tuple[float | None, float | None]  # None: open
SLACK = 1e-6  # by how much a score may exceed its bounds, for rounding


class Component(Protocol):
    """A reward component, ready to score."""

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict], origin: Origin
    ) -> Sequence[float] | np.ndarray:
        """One score per response, in order."""


class Rewards:
    """The components of a task by name, in the order of the task's file."""

    def __init__(self, components: Mapping[str, Component], limits: Mapping[str, Bounds]) -> None:
        self._components, self._limits = dict(components), dict(limits)

    @property
    def names(self) -> list[str]:
        return list(self._components)

    def score(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        contexts: Sequence[dict[str, Any]],
        origin: Origin = "generated",
    ) -> dict[str, np.ndarray]:
        """Component -> float64 [N]; raises InputError for a wrong number of scores, NaN, inf or a broken bound."""
        if not len(prompts) == len(responses) == len(contexts):
            raise ValueError(f"{len(prompts)} prompts, {len(responses)} responses and {len(contexts)} contexts")
        if not len(prompts):
            return {name: np.zeros(0) for name in self._components}
        return {
            name: _checked(name, one.score(prompts, responses, contexts, origin), len(prompts), *self._limits[name])
            for name, one in self._components.items()
        }


def _checked(name: str, scores: Any, count: int, low: float | None, high: float | None) -> np.ndarray:
    try:
        scores = np.asarray(scores)
    except ValueError:  # lists of several lengths
        scores = np.empty(0, object)
    if scores.dtype.kind not in "biuf":
        raise InputError(f"reward component '{name}' must return a list of {count} numbers")
    scores = scores.astype(np.float64)
    if scores.shape != (count,):
        shape = f"{len(scores)} scores" if scores.ndim == 1 else f"an array of shape {list(scores.shape)}"
        raise InputError(f"reward component '{name}' returned {shape} for {count} responses; it must return one each")
    lower, upper = -math.inf if low is None else low, math.inf if high is None else high
    finite = np.isfinite(scores)
    bad = np.flatnonzero(~finite | (scores < lower - SLACK) | (scores > upper + SLACK))
    if not len(bad):
        return scores
    row = int(bad[0])
    given = f"reward component '{name}' gave {scores[row]:g} for row {row} (counted from 0)"
    if not finite[row]:
        raise InputError(f"{given}; it must be a finite number")
    raise InputError(
        f"{given}, outside its bounds [{_bound(low)}, {_bound(high)}]; correct the component, or "
        f"rewards.{name}.low and high (null: open)"
    )


def _bound(value: float | None) -> str:
    return "open" if value is None else f"{value:g}"


def total(scores: Mapping[str, np.ndarray], weights: Mapping[str, float], shift: float) -> np.ndarray:
    """R = shift + the weighted sum of the components; float64 [N]."""
    return shift + np.sum([weight * np.asarray(scores[name], np.float64) for name, weight in weights.items()], axis=0)


def bounds(specs: Mapping[str, Mapping[str, Any]], weights: Mapping[str, float], shift: float) -> Bounds:
    """The bounds of the total; a negative weight swaps a component's, and one open bound opens the sum's."""
    low = high = float(shift)
    for name, weight in weights.items():
        ends = [specs[name]["low"], specs[name]["high"]] if weight >= 0 else [specs[name]["high"], specs[name]["low"]]
        if weight:
            low += math.nan if ends[0] is None else weight * ends[0]
            high += math.nan if ends[1] is None else weight * ends[1]
    return None if math.isnan(low) else low, None if math.isnan(high) else high
