"""What a run comes to in one line, and whether training failed: pure functions of its summary and test responses.

Nothing is called a gain that the interval of the difference does not show, and nothing is compared whose responses or
rewards cannot be told apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alol.evaluation.metrics import Array
from alol.evaluation.summary import ALL, History, Measured

BETTER, WORSE, NOT_SHOWN, DEGENERATE = "better", "worse", "not shown", "degenerate"


@dataclass(frozen=True)
class Verdict:
    """One of the words above, and the sentence that says why."""

    word: str
    line: str


def verdict(algorithm: str, summary: Mapping[str, Any], measured: Mapping[str, Measured]) -> Verdict:
    """The policy of `algorithm` against the reference, on the test prompts pooled."""
    policy, reference, delta = measured["policy"], measured["reference"], summary["delta"][ALL]
    prompts, low, high = len(policy.texts), delta["reward_low"], delta["reward_high"]
    if alike := _alike(policy.texts):
        beside = _alike(reference.texts)
        also = f", and the reference {beside}" if beside else ""
        return Verdict(DEGENERATE, f"No verdict: the policy {alike} to all {prompts} test prompts{also}.")
    if _constant(policy.columns["reward"], reference.columns["reward"]):
        number = f"{policy.columns['reward'][0]:.4g}"
        line = f"No verdict: every response of policy and reference has a reward of {number}, which tells none apart."
        return Verdict(DEGENERATE, line)
    if _independent(policy) < 2:
        return Verdict(NOT_SHOWN, "No gain shown: the test set is one prompt or one conversation; take more.")
    numbers = f"{delta['reward']:+.3f} (95 % interval {low:+.3f} to {high:+.3f}, {prompts} test prompts)"
    beside = _alike(reference.texts)
    also = f" The reference {beside} to every prompt, which is a low bar." if beside else ""
    if low > 0:
        return Verdict(BETTER, f"{algorithm} gains on the reference: mean reward {numbers}.{also}")
    if high < 0:
        return Verdict(WORSE, f"{algorithm} is worse than the reference: mean reward {numbers}.{also}")
    return Verdict(NOT_SHOWN, f"No gain shown: {algorithm} less the reference is {numbers}; this includes 0.{also}")


def failures(history: History, summary: Mapping[str, Any], measured: Mapping[str, Measured]) -> list[str]:
    """One sentence for each sign that training failed."""
    found = []
    losses, scores = [entry["loss"] for entry in history["curve"]], history["validation"]
    if not losses:
        found.append("Training failed: no update was made, so the policy is the reference.")
    elif broken := [entry["update"] for entry in history["curve"] if not math.isfinite(entry["loss"])]:
        found.append(f"Training failed: the loss is no finite number from update {broken[0]} on.")
    elif measured["policy"].texts == measured["reference"].texts:
        found.append("Training failed: the policy answers every test prompt as the reference does.")
    if losses and not summary["selected"]:
        bar = [entry["reward"] for entry in scores if entry["update"] == 0]
        tried = [entry["reward"] for entry in scores if entry["update"] > 0]
        numbers = f" (best {max(tried):.3f} against {bar[0]:.3f})" if bar and tried else ""
        found.append(
            f"Training failed: no checkpoint beat the reference on validation{numbers}. The last one was kept, and the "
            "numbers here are its own."
        )
    return found


def _alike(texts: Sequence[str]) -> str:
    """How responses are all the same, as a verb with its object; nothing where they differ, or there is one."""
    if not any(text.strip() for text in texts):
        return "gives an empty response"
    return "gives one and the same response" if len(texts) > 1 and len({text.strip() for text in texts}) == 1 else ""


def _constant(*columns: Array) -> bool:
    values = np.concatenate(columns)
    return bool(values.max() - values.min() < 1e-9)


def _independent(measured: Measured) -> int:
    """How many prompts, or conversations of several prompts, there are to resample."""
    return len(measured.texts) if measured.conversations is None else len(np.unique(measured.conversations))
