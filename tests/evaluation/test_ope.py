"""Off-policy estimates by hand, and what they are right about."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alol.evaluation import ope

LN2 = math.log(2)


def test_estimates_by_hand(monkeypatch):
    monkeypatch.setattr(ope, "ENOUGH", 2.0)
    # weights 2, 1, 1: (2 x 1 + 0.5 + 0) / 4; the residuals 0.6, 0.1 and -0.4: 0.4 + (1.2 + 0.1 - 0.4) / 4
    found = ope.estimates(
        np.array([LN2, 0.0, 0.0]), np.array([1.0, 0.5, 0.0]), np.full(3, 0.4), np.array([1.0, 2.0, 1.0])
    )
    assert found == pytest.approx(
        {
            "baseline": 0.4, "snis": 0.625, "dr": 0.625, "ess": 16 / 6, "clipped": 0.0,
            "log_ratio_per_token": LN2 / 4, "responses": 3.0,
        }
    )  # fmt: skip


def test_the_reference_itself_is_worth_the_mean_of_what_it_wrote():
    reward = np.linspace(0, 1, 101)
    found = ope.estimates(np.zeros(101), reward, np.full(101, 0.5), np.ones(101))
    assert (found["snis"], found["dr"], found["ess"]) == pytest.approx((0.5, 0.5, 101.0))


def test_a_large_weight_is_clipped_and_counted_and_few_that_count_give_no_estimate():
    log_ratio = np.zeros(100)
    log_ratio[0] = 50.0
    found = ope.estimates(log_ratio, np.zeros(100), np.zeros(100), np.ones(100))
    # one weight of 20 and 99 of 1: 119^2 / (400 + 99)
    assert (found["ess"], found["clipped"]) == pytest.approx((119**2 / 499, 0.01))
    assert "snis" not in found and "dr" not in found
    far = ope.estimates(np.full(100, -1e4), np.ones(100), np.zeros(100), np.ones(100))
    assert (far["snis"], far["ess"]) == pytest.approx((1.0, 100.0))


def test_estimates_are_right_where_the_reference_wrote_the_logs():
    """Two responses to each prompt, of which the reference writes the good one with 0.3 and the policy with 0.8."""
    generator = np.random.default_rng(0)
    good = generator.random(200_000) < 0.3
    log_ratio = np.where(good, np.log(0.8 / 0.3), np.log(0.2 / 0.7))
    found = ope.estimates(log_ratio, good.astype(float), np.full(len(good), 0.3), np.ones(len(good)))
    assert (found["snis"], found["dr"]) == pytest.approx((0.8, 0.8), abs=0.01)


def test_subsets_have_estimates_of_their_own():
    columns = (np.zeros(80), np.r_[np.zeros(40), np.ones(40)], np.zeros(80), np.ones(80))
    found = ope.by_split(["a"] * 40 + ["b"] * 40, *columns)
    assert {name: one["snis"] for name, one in found.items()} == {"all": 0.5, "a": 0.0, "b": 1.0}
    assert list(ope.by_split(["a"] * 80, *columns)) == ["all"]
