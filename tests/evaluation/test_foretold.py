"""Estimates against test rewards, by hand."""

from __future__ import annotations

import pytest

from alol.evaluation import foretold
from alol.evaluation.experiments import Run


def run(reward: float, **metrics: float) -> Run:
    keys = {"dr": "policy.all.ope.dr", "snis": "policy.all.ope.snis", "validation": "validation.policy.reward"}
    found = {"policy.all.reward": reward} | {keys[name]: value for name, value in metrics.items()}
    return Run("", "", "", {}, found, {})


def test_ranks_and_bias_by_hand():
    # validation: ranks 1 2 3 4 against 1 2 4 3, so 1 - 6 x 2 / (4 x 15); all 0.1 below; dr: of three runs, reversed
    runs = [
        run(0.5, validation=0.4, dr=0.9),
        run(0.6, validation=0.5, dr=0.8),
        run(0.8, validation=0.6, dr=0.7),
        run(0.7, validation=0.7),
    ]
    validation, robust = foretold.table(runs)
    assert (validation.estimate, validation.runs) == ("validation reward", 4)
    assert (validation.rank, validation.bias, validation.error) == pytest.approx((0.8, -0.1, 0.1))
    # 0.4, 0.2 and -0.1 above
    assert (robust.runs, robust.rank, robust.bias, robust.error) == (
        3,
        -1.0,
        pytest.approx(0.5 / 3),
        pytest.approx(0.7 / 3),
    )
    assert foretold.cells([validation]) == [
        ["estimate", "runs", "rank correlation", "bias", "mean error"],
        ["validation reward", "4", "0.800", "-0.100", "0.100"],
    ]


def test_estimates_by_other_rewards_than_the_tests_have_ranks_alone():
    runs = [run(0.5, dr=0.1), run(0.6, dr=0.2), run(0.7, dr=0.3)]
    for one in runs:
        one.settings.update({"rewards.good.kind": "tfidf", "test_rewards.good.kind": "python"})
    (found,) = foretold.table(runs)
    assert (found.rank, found.bias, found.error) == (1.0, None, None)
    assert foretold.cells([found])[1] == ["doubly robust", "3", "1.000", "", ""]


def test_two_runs_and_equal_estimates_say_nothing():
    assert foretold.table([run(0.5, dr=0.1), run(0.6, dr=0.2)]) == []
    assert foretold.table([run(0.5, dr=0.1), run(0.6, dr=0.1), run(0.7, dr=0.1)]) == []
