"""The eight losses: values worked out by hand, identities, gradients, and the importance weight's clipping."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from alol.algorithms.offline import OFFLINE, importance, nll, r_gold, wbc
from tests.registered import constants

LN2, LN3 = math.log(2), math.log(3)
# two responses: of three tokens (1/2, 1/4, 1/8) and of one (1/2), padded with junk that the mask hides
LOGP = torch.tensor([[-LN2, -2 * LN2, -3 * LN2], [-LN2, -7.0, -9.0]])
REF = torch.tensor([[-LN2, -3 * LN2, -3 * LN2], [-2 * LN2, -1.0, 5.0]])
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
REWARD = torch.tensor([0.5, 2.0])
ADVANTAGE = torch.tensor([0.5, -1.0])


def call(name, logp=LOGP, mask=MASK, ref_logp=REF, reward=REWARD, advantage=ADVANTAGE, **hyperparameters):
    given = {"ref_logp": ref_logp, "reward": reward, "advantage": advantage}
    algorithm = OFFLINE[name]
    columns = {column: given[column] for column in algorithm.columns}
    return algorithm.loss(logp=logp, mask=mask, **columns, **{**constants(name), **hyperparameters})


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), atol=1e-6, rtol=1e-6)


BY_HAND = {
    "nll": [6 * LN2, LN2],
    "wbc": [3 * LN2, 2 * LN2],
    # weights 1/2, 1/4, 1/8: 0.5 (1/2 + 2/4 + 3/8) ln 2 and 2 x 1/2 ln 2
    "r_gold": [0.6875 * LN2, LN2],
    # ratios 2 -> 1.9 and 2 -> 1.9
    "r_lol": [0.5 * 1.9 * 6 * LN2, 2 * 1.9 * LN2],
    "a_lol": [0.5 * 1.9 * 6 * LN2, 0.0],
    "a_lol_ref_free": [3 * LN2, 0.0],
    # token ratios 1, 1.9, 1
    "a_lol_seq": [0.5 * (1 + 1.9 * 2 + 3) * LN2, 0.0],
    # log-ratios +ln 2 and +ln 2
    "a_lol_kl": [3 * LN2 + 0.2 * LN2, 0.2 * LN2],
}


@pytest.mark.parametrize("name", OFFLINE)
def test_value_by_hand(name):
    assert name in BY_HAND, f"{name} has no value worked out by hand: add it to BY_HAND in {Path(__file__).name}"
    close(call(name), BY_HAND[name])


def test_gold_floor_weights_are_0_1_and_0_5():
    logp = torch.tensor([[0.05, 0.5]]).log()
    expected = -(0.1 * math.log(0.05) + 0.5 * math.log(0.5))
    close(r_gold(logp=logp, mask=torch.ones(1, 2), reward=torch.ones(1), floor=0.1), [expected])


@pytest.mark.parametrize(("log_ratio", "weight"), [(LN3, 1.9), (math.log(0.01), 0.1), (0.0, 1.0), (0.3, math.exp(0.3))])
def test_importance_weight_is_clipped_to_0_1_and_1_9(log_ratio, weight):
    close(importance(torch.tensor([log_ratio]), 0.9), [weight])


def test_without_clip_the_ratio_is_used_as_it_is_and_stays_finite():
    close(call("a_lol", clip=None), [0.5 * 2 * 6 * LN2, 0.0])
    assert importance(torch.tensor([1e6]), None).isfinite().all()


def test_identities():
    one = torch.ones(2)
    torch.testing.assert_close(wbc(logp=LOGP, mask=MASK, reward=one), nll(logp=LOGP, mask=MASK))
    torch.testing.assert_close(call("r_gold", floor=1.0), call("wbc"))
    torch.testing.assert_close(call("r_lol", ref_logp=LOGP), call("wbc"))
    for name in ("a_lol", "a_lol_seq"):
        torch.testing.assert_close(call(name, ref_logp=LOGP), call("a_lol_ref_free"))
    torch.testing.assert_close(call("a_lol_kl", ref_logp=LOGP), call("a_lol_ref_free"))
    torch.testing.assert_close(call("a_lol_kl", kl_beta=0.0), call("a_lol_ref_free"))


def gradient(name, **changes):
    logp = LOGP.clone().requires_grad_()
    call(name, logp=logp, **changes).sum().backward()
    return logp.grad


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("nll", [[1, 1, 1], [1, 0, 0]]),
        ("wbc", [[0.5, 0.5, 0.5], [2, 0, 0]]),
        ("r_gold", [[0.25, 0.125, 0.0625], [1, 0, 0]]),
        ("r_lol", [[0.95, 0.95, 0.95], [3.8, 0, 0]]),
        ("a_lol", [[0.95, 0.95, 0.95], [0, 0, 0]]),
        ("a_lol_ref_free", [[0.5, 0.5, 0.5], [0, 0, 0]]),
        ("a_lol_seq", [[0.5, 0.95, 0.5], [0, 0, 0]]),
        ("a_lol_kl", [[0.3, 0.3, 0.3], [-0.2, 0, 0]]),
    ],
)
def test_gradient_is_weight_times_gradient_of_nll(name, weights):
    close(gradient(name), [[-weight for weight in row] for row in weights])


@pytest.mark.parametrize("name", ["a_lol", "a_lol_ref_free", "a_lol_seq"])
def test_negative_advantage_gives_no_loss_and_no_gradient(name):
    negative = torch.tensor([-0.1, -3.0])
    assert call(name, advantage=negative).abs().max() == 0
    assert gradient(name, advantage=negative).abs().max() == 0


def test_kl_gradient_is_advantage_minus_beta():
    grad = gradient("a_lol_kl", advantage=torch.tensor([0.05, -1.0]))
    close(grad, [[0.15, 0.15, 0.15], [0.2, 0.0, 0.0]])


@pytest.mark.parametrize("name", OFFLINE)
def test_padding_columns_change_nothing(name):
    pad = torch.full((2, 4), -3.0)
    longer = call(
        name, logp=torch.cat([LOGP, pad], 1), ref_logp=torch.cat([REF, -pad], 1), mask=torch.cat([MASK, pad * 0], 1)
    )
    torch.testing.assert_close(longer, call(name), atol=0, rtol=0)


@pytest.mark.parametrize("name", OFFLINE)
def test_gradients_are_finite_at_extreme_log_probabilities(name):
    logp = torch.tensor([[-1e4, -1e-8, -50.0], [-1e4, 0.0, 0.0]], requires_grad=True)
    call(name, logp=logp, ref_logp=torch.zeros(2, 3), advantage=torch.ones(2)).sum().backward()
    assert logp.grad.isfinite().all()


def test_losses_are_distinct_functions():
    values = {name: tuple(call(name, advantage=torch.tensor([0.7, 0.3])).tolist()) for name in OFFLINE}
    assert len(set(values.values())) == len(values)
