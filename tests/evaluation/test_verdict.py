"""The verdict of a run and the signs that training failed, on test rows worked out by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from alol.config import params
from alol.evaluation import summary, verdict
from alol.evaluation.summary import Measured

SIZES = {"bootstrap": 200, "permutations": 1000, "seed": 3, "samples": 2, "examples": 2, "points": 10}
OPTIONS = dataclasses.replace(params.load("demo").aggregate, **SIZES)
CURVE = [{"update": 1, "loss": 0.5}, {"update": 2, "loss": 0.25}]
POINTS = [{"update": at, "epoch": at / 2, "reward": reward} for at, reward in ((0, 0.5), (1, 0.25), (2, 0.375))]


def judged(
    policy: list[float], reference: list[float], texts: list[str] | None = None, other: list[str] | None = None,
    conversations: list[int] | None = None,
) -> verdict.Verdict:  # fmt: skip
    """The verdict on rewards, with these responses of policy and reference (else each is its own)."""
    groups = None if conversations is None else np.array(conversations, dtype=np.int64)
    measured = {
        name: Measured(own or [f"{name} {i}" for i in range(len(rewards))], {"reward": np.array(rewards)}, (), groups)
        for name, rewards, own in (("policy", policy, texts), ("reference", reference, other))
    }
    found = summary.summarise(["test"] * len(policy), measured, OPTIONS)
    return verdict.verdict("a_lol", found, measured)


def test_a_gain_is_one_where_the_interval_of_the_difference_is_above_0():
    found = judged([1.5, 2.5, 3.5], [1.0, 2.0, 3.0])
    assert found == verdict.Verdict(
        "better",
        "a_lol gains on the reference: mean reward +0.500 (95 % interval +0.500 to +0.500, 3 test prompts).",
    )


def test_a_loss_is_said_to_be_one():
    found = judged([0.5, 1.5], [1.0, 2.0])
    assert found.word == "worse"
    assert found.line.startswith("a_lol is worse than the reference: mean reward -0.500 (95 %")


@pytest.mark.parametrize("policy", [[2.0, 1.0, 3.0, 2.0], [1.0, 2.0, 3.0, 2.0]])
def test_where_the_interval_has_0_in_it_no_gain_is_shown(policy):
    found = judged(policy, [1.0, 2.0, 3.0, 2.0])
    assert found.word == "not shown"
    assert found.line.startswith("No gain shown: a_lol less the reference is +0.000 (95 % interval ")
    assert found.line.endswith("; this includes 0.")


def test_one_prompt_or_one_conversation_shows_nothing():
    assert judged([2.0], [1.0]).word == "not shown"
    assert judged([2.0, 3.0], [1.0, 1.0], conversations=[0, 0]).word == "not shown"
    assert judged([2.0, 3.0], [1.0, 1.0], conversations=[0, 1]).word == "better"


@pytest.mark.parametrize(
    ("texts", "other", "line"),
    [
        (["", " "], None, "No verdict: the policy gives an empty response to all 2 test prompts."),
        (["x", "x "], None, "No verdict: the policy gives one and the same response to all 2 test prompts."),
        (
            ["x", "x"], ["", ""],
            "No verdict: the policy gives one and the same response to all 2 test prompts, and the reference gives an "
            "empty response.",
        ),
    ],
)  # fmt: skip
def test_responses_that_are_all_the_same_get_no_verdict_whatever_their_reward(texts, other, line):
    assert judged([3.0, 4.0], [1.0, 2.0], texts, other) == verdict.Verdict("degenerate", line)


def test_rewards_that_are_all_the_same_get_no_verdict():
    line = "No verdict: every response of policy and reference has a reward of 0.25, which tells none apart."
    assert judged([0.25, 0.25], [0.25, 0.25]) == verdict.Verdict("degenerate", line)
    assert judged([0.25, 0.25], [0.25, 0.5]).word != "degenerate"


def test_a_reference_without_answers_is_named_as_a_low_bar():
    found = judged([2.0, 3.0], [1.0, 1.0], other=["no", "no"])
    assert found.word == "better"
    assert found.line.endswith(" The reference gives one and the same response to every prompt, which is a low bar.")


def failed(curve: list[dict[str, Any]] = CURVE, selected: int = 1, same: bool = False) -> list[str]:
    rewards = {"reward": np.array([0.5, 0.25])}
    texts = {"policy": ["a", "b"], "reference": ["a", "b" if same else "c"]}
    measured = {name: Measured(own, rewards) for name, own in texts.items()}
    history = {"selected": selected, "discarded": 0.5, "validation": POINTS, "curve": curve}
    return verdict.failures(history, {"selected": selected}, measured)


def test_training_that_did_what_it_should_has_no_sign_of_failure():
    assert failed() == []


def test_no_checkpoint_above_the_reference_is_a_failure():
    assert failed(selected=0) == [
        "Training failed: no checkpoint beat the reference on validation (best 0.375 against 0.500). The last one was "
        "kept, and the numbers here are its own."
    ]


def test_a_run_without_an_update_is_a_failure():
    assert failed(curve=[], selected=0) == ["Training failed: no update was made, so the policy is the reference."]


def test_a_loss_that_is_no_number_is_a_failure():
    (line,) = failed(curve=[*CURVE, {"update": 3, "loss": float("nan")}])
    assert line == "Training failed: the loss is no finite number from update 3 on."


def test_a_policy_that_answers_as_the_reference_is_a_failure():
    assert failed(same=True) == ["Training failed: the policy answers every test prompt as the reference does."]
