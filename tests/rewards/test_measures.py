"""The figures of a trained reward: accuracy, rank correlation, calibration, and the rules that stand beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from alol.evaluation.report import doubts
from alol.rewards import heads, measures
from alol.rewards.examples import Examples
from alol.rewards.measures import Outputs, Rules, calibration, hits, measure, spearman
from alol.rewards.options import Measured, parse
from tests.reward_project import load

SETTINGS = Measured(200, 10, 100)


def places(values) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1]


def test_examples_that_count_several_times_have_the_rank_correlation_of_as_many_copies():
    draw = np.random.default_rng(0)
    x, y = draw.integers(6, size=40), draw.integers(5, size=40)
    weights = draw.integers(4, size=40)
    expected = spearmanr(np.repeat(x, weights), np.repeat(y, weights)).statistic
    assert spearman(places(x), places(y), weights.astype(float)) == pytest.approx(expected, abs=1e-12)
    assert spearman(places([1.0, 1.0]), places([1.0, 2.0]), np.ones(2)) == 0.0


def test_hits_of_pairs_and_classes():
    assert hits("pairs", np.array([0.3, -0.1, 0.0]), np.zeros(3)).tolist() == [1.0, 0.0, 0.5]
    assert hits("labels", np.array([[0.2], [-1.0], [3.0]]), np.array([1, 0, 0])).tolist() == [1.0, 1.0, 0.0]
    assert hits("labels", np.array([[0.0, 1.0, 2.0], [5.0, 1.0, 2.0]]), np.array([2, 1])).tolist() == [1.0, 0.0]


def test_the_calibration_error_is_the_gap_between_how_sure_and_how_right():
    """Two sure of 0.9 of which one is right, two of 0.6 that both are: (2 x |0.5 - 0.9| + 2 x |1 - 0.6|) / 4."""
    logits = np.array([[math.log(9)], [math.log(9)], [math.log(1.5)], [-math.log(1.5)]])
    found = calibration("labels", logits, np.array([1, 0, 1, 0]), 10)
    assert found == {"calibration_error": pytest.approx(0.4)}
    two = np.hstack([np.zeros_like(logits), logits])
    assert calibration("labels", two, np.array([1, 0, 1, 0]), 10)["calibration_error"] == pytest.approx(0.4)


def test_numbers_are_calibrated_by_the_line_through_them():
    found = calibration("scores", np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]), 10)
    assert found["calibration_slope"] == pytest.approx(2)
    assert found["calibration_intercept"] == pytest.approx(1)
    assert found["mse"] == pytest.approx((1 + 4 + 9) / 3)
    assert found["mse_constant"] == pytest.approx(8 / 3)


def pairs(count: int) -> Examples:
    """The better response has the word `good`; the longer one is as often the worse."""
    rows = []
    for i in range(count):
        words = [f"w{i % 7}"] * (2 + i % 2), [f"w{i % 5}"] * (3 - i % 2)
        rows += [(f"p {i}", " ".join(["good", *words[0]]), {}), (f"p {i}", " ".join(["bad", *words[1]]), {})]
    members = [(2 * i, 2 * i + 1) for i in range(count)]
    return Examples(rows, members, [0] * count, [f"p {i}" for i in range(count)], [], True, "pairs")


def test_the_bag_of_words_knows_what_the_length_rule_does_not(tmp_path):
    examples = pairs(60)
    options = parse(load(tmp_path, {"a": {"kind": "preference", "train": {}}}).rewards["a"], "rewards.a")
    rules = Rules(examples, options, "rewards.a")
    rules.fold(range(40), range(40, 60))
    rules.fold(range(40, 60), range(40))
    found = rules.outputs(range(60))
    model = Outputs(list(range(60)), np.resize([1.0, 1.0, -1.0], 60))  # right in two of three
    result = measure(examples, model, found, SETTINGS, seed=1)
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["accuracy_low"] < 2 / 3 < result["accuracy_high"]
    assert result["words_accuracy"] == 1.0
    assert result["length_accuracy"] == pytest.approx(0.5, abs=0.01)
    assert result["accuracy_over_words"] == pytest.approx(-1 / 3)
    assert result["accuracy_over_words_high"] < 0
    assert result["rows"] == 60
    assert measure(examples, model, found, SETTINGS, seed=1) == result
    run = type("Run", (), {"reward_model": {"liked": result, "words": {}}})
    [*_, doubt] = doubts(run)
    assert doubt.startswith(
        "The reward 'liked' is not shown to be better than a bag of words: accuracy 0.667 against 1.000"
    )


def test_rules_for_numbers_and_classes(tmp_path):
    rows = [("p", " ".join(["w"] * (i + 1)), {}) for i in range(12)]
    single, keys = [(i,) for i in range(12)], [str(i) for i in range(12)]
    spec = {"kind": "classifier", "inputs": ["response"], "train": {}}
    options = parse(load(tmp_path, {"a": spec}).rewards["a"], "rewards.a")
    for objective, targets in (("scores", [float(i) for i in range(12)]), ("labels", [int(i > 5) for i in range(12)])):
        rules = Rules(Examples(rows, single, targets, keys, [], True, objective), options, "rewards.a")
        rules.fold(range(0, 12, 2), range(1, 12, 2))
        found = rules.outputs(range(1, 12, 2))["length"].values
        if objective == "scores":
            assert (np.diff(found) > 0).all()
        else:
            assert [*found.argmax(1)[:2], *found.argmax(1)[-2:]] == [0, 0, 1, 1]


def test_rules_name_the_only_class_that_they_have_seen(tmp_path):
    rows, targets = [("p", text, {}) for text in ("a b", "c", "d e f")], [1, 1, 0]
    spec = {"kind": "classifier", "inputs": ["response"], "train": {}}
    options = parse(load(tmp_path, {"a": spec}).rewards["a"], "rewards.a")
    rules = Rules(
        Examples(rows, [(0,), (1,), (2,)], targets, ["x", "y", "z"], [], True, "labels"), options, "rewards.a"
    )
    rules.fold([0, 1], [2])
    assert [one.values.argmax(1).tolist() for one in rules.outputs([2]).values()] == [[1], [1]]


def test_a_ridge_head_has_its_closed_form():
    """x = -1, 0, 1 standardised by sqrt(2/3), y = -1, 0, 1, l2 1: w = 3 / (3 + 1) in standardised units."""
    states = np.array([[1.0], [2.0], [3.0]])
    spread = math.sqrt(2 / 3)
    examples = Examples([], [(0,), (1,), (2,)], [-1.0, 0.0, 1.0], ["a", "b", "c"], [], True, "scores")
    head = heads.fit(states, examples, [0, 1, 2], 1, 1.0)
    slope = (2 / spread) / (3 + 1) / spread
    assert head.weight.tolist() == [[pytest.approx(slope)]]
    assert head.bias.tolist() == [pytest.approx(-2 * slope)]


def test_a_head_of_pairs_is_bradley_terry_without_a_bias():
    """Where w is best, l2 x w is the sum of d x sigmoid(-w d) over the differences d, which keep their units here."""
    states = np.array([[2.0], [1.0], [1.0], [2.0], [3.0], [2.0]])
    examples = Examples([], [(0, 1), (2, 3), (4, 5)], [0] * 3, ["a", "b", "c"], [], True, "pairs")
    head = heads.fit(states, examples, [0, 1, 2], 1, 0.5)
    w, differences = head.weight[0, 0], np.array([1.0, -1.0, 1.0])
    assert head.bias.tolist() == [0.0]
    assert 0.5 * w == pytest.approx(float((differences / (1 + np.exp(w * differences))).sum()), abs=1e-4)


def test_two_logits_of_a_head_are_as_likely_as_one():
    states = np.random.default_rng(1).normal(size=(40, 3))
    targets = (states[:, 0] > 0).astype(int).tolist()
    examples = Examples([], [(i,) for i in range(40)], targets, [str(i) for i in range(40)], [], True, "labels")
    one, two = (heads.fit(states, examples, range(40), count, None) for count in (1, 2))
    assert two.weight[0].tolist() == [0.0] * 3
    assert two.weight[1].tolist() == one.weight[0].tolist()
    assert one.l2 in heads.STRENGTHS


def test_cross_validation_takes_a_strong_penalty_where_there_is_nothing_to_learn():
    draw = np.random.default_rng(2)
    states = draw.normal(size=(60, 20))
    single, keys = [(i,) for i in range(60)], [str(i // 2) for i in range(60)]
    noise = Examples([], single, draw.normal(size=60).tolist(), keys, [], True, "scores")
    exact = Examples([], single, states[:, 0].tolist(), keys, [], True, "scores")
    assert heads.fit(states, noise, range(60), 1, None).l2 >= 1e3
    assert heads.fit(states, exact, range(60), 1, None).l2 == 1.0
    assert measures.RULES == ("length", "words")
