"""A task's components together: scoring with checks, and the total reward.

A component's scores are checked where they arise: their number, that they are finite, and that they keep the declared
bounds, since the value head and the algorithms that need R >= 0 build on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from alol.base.errors import InputError, first_line

# Whose texts are scored. generated: a model's own. source: the data's, whose stored scores may be used. train: the
# data's, to be scored by models that did not see the prompts. answered: a model's own to such prompts, likewise.
Origin = Literal["generated", "source", "train", "answered"]
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
        result = {}
        for name, one in self._components.items():
            by = f" in {one.function}" if hasattr(one, "function") else ""  # of a Python reward
            scores = one.score(prompts, responses, contexts, origin)
            result[name] = _checked(name, scores, len(prompts), *self._limits[name], by)
        return result


def _checked(name: str, scores: Any, count: int, low: float | None, high: float | None, by: str = "") -> np.ndarray:
    scores = _numbers(scores, count, f"reward component '{name}'", by)
    lower, upper = -math.inf if low is None else low, math.inf if high is None else high
    finite = np.isfinite(scores)
    bad = np.flatnonzero(~finite | (scores < lower - SLACK) | (scores > upper + SLACK))
    if not len(bad):
        return scores
    row = int(bad[0])
    given = f"reward component '{name}' gave {scores[row]:g} for row {row} (counted from 0){by}"
    if not finite[row]:
        raise InputError(f"{given}; it must be a finite number")
    raise InputError(
        f"{given}, outside its bounds [{_bound(low)}, {_bound(high)}]; correct the component, or "
        f"rewards.{name}.low and high (null: open)"
    )


def _numbers(scores: Any, count: int, who: str, by: str) -> np.ndarray:
    """float64 [count] of what a component returned: a list of numbers or something like it."""
    if hasattr(scores, "__array__") and not hasattr(scores, "shape"):
        scores = np.asarray(scores)
    shape = getattr(scores, "shape", None)
    if shape is None and (not isinstance(scores, Sequence) or isinstance(scores, str | bytes)):
        raise InputError(f"{who} must return a list of {count} numbers, but returned {_kind(scores)}{by}")
    if (shape is not None and len(shape) != 1) or len(scores) != count:
        given = f"{len(scores)} scores" if shape is None or len(shape) == 1 else f"an array of shape {list(shape)}"
        raise InputError(f"{who} returned {given} for {count} responses{by}; it must return one each")
    result, row = np.empty(count), 0
    try:
        for row, score in enumerate(scores):
            result[row] = _number(score)
    except Exception as error:  # whatever the user's objects raise when they become numbers
        fault = f"row {row} (counted from 0){by} {first_line(error)}"
        raise InputError(f"{who} must return a list of {count} numbers, but {fault}") from None
    return result


def _number(score: Any) -> float:
    """A score as a float; raises TypeError saying what it is instead."""
    if getattr(score, "requires_grad", False):
        raise TypeError("is a tensor with gradients; return scores.detach().tolist()")
    if "bfloat16" in str(getattr(score, "dtype", "")):
        raise TypeError("is in bfloat16, of two or three digits; compute it in float32 and return scores.tolist()")
    if getattr(score, "ndim", 0):
        raise TypeError(f"is an array of shape {list(score.shape)}")
    kind = getattr(getattr(score, "dtype", None), "kind", "f")
    if not hasattr(score, "__float__") or isinstance(score, complex) or kind not in "biuf" or score is np.ma.masked:
        raise TypeError(f"is {_kind(score)}")
    try:
        return float(score)
    except OverflowError:
        raise TypeError("is an integer that is too large for a float") from None


def _kind(value: Any) -> str:
    """What a value is, for messages."""
    if value is None:
        return "None"
    return f"the text {str(value)!r:.40}" if isinstance(value, str) else f"a {type(value).__name__}"


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
