"""The rivals on single responses: values worked out by hand, identities, gradients."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from alol.algorithms.offline import a_lol, nll
from alol.algorithms.rivals import RIVALS, a_lol_signed, awr, dro, kto_zero
from tests.registered import constants

LN2 = math.log(2)
# two responses: of three tokens (1/2, 1/4, 1/8) and of one (1/2), padded with junk that the mask hides
LOGP = torch.tensor([[-LN2, -2 * LN2, -3 * LN2], [-LN2, -7.0, -9.0]])
REF = torch.tensor([[-LN2, -3 * LN2, -3 * LN2], [-3 * LN2, -1.0, 5.0]])  # log-ratios ln 2 and 2 ln 2
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
ADVANTAGE = torch.tensor([0.1, -0.2])
REWARD = torch.tensor([0.5, -1.0])
REF_REWARDS = torch.tensor([[0.0, 0.5, 1.0, 2.0], [-0.5, 0.0, 0.0, 1.0]])


def call(
    name, logp=LOGP, mask=MASK, ref_logp=REF, advantage=ADVANTAGE, reward=REWARD, ref_rewards=REF_REWARDS, **constant
):
    given = {"ref_logp": ref_logp, "advantage": advantage, "reward": reward, "ref_rewards": ref_rewards}
    columns = {column: given[column] for column in RIVALS[name].columns}
    return RIVALS[name].loss(logp=logp, mask=mask, **columns, **{**constants(name), **constant})


def gradient(name, **changes):
    logp = changes.pop("logp", LOGP).clone().requires_grad_()
    call(name, logp=logp, **changes).sum().backward()
    return logp.grad


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), atol=1e-6, rtol=1e-6)


BY_HAND = {
    "rft": [6 * LN2, LN2],
    # weights e^1 and e^-2
    "awr": [math.e * 6 * LN2, math.exp(-2) * LN2],
    # ratios 2 -> 1.9 and 4 -> 1.9; weights 0.1 and 0.1 x -0.2
    "a_lol_signed": [0.1 * 1.9 * 6 * LN2, -0.02 * 1.9 * LN2],
    # half the squares of 0.1 - 0.0693147 and of -0.2 - 0.1386294
    "dro": [0.5 * 0.0306853**2, 0.5 * 0.3386294**2],
    # sigmoid(-0.1 ln 2) = 1 / (1 + 2^0.1) and sigmoid(0.2 ln 2) = 1 / (1 + 2^-0.2)
    # V*: 0.5 ln((1 + e + e^2 + e^4) / 4) = 1.399444 and 0.5 ln((1 / e + 2 + e^2) / 4) = 0.445842
    "a_star": [0.5 * (0.5 - 1.399444 - 0.001 * LN2) ** 2, 0.5 * (-1.0 - 0.445842 - 0.002 * LN2) ** 2],
    # quantiles 2 / 4 and 0; scales 0.1 / 3 and 0.1, of which b ln b + 1 is 0.886627 and 0.769741
    "qrpo": [(0.5 - 0.886627 - 0.1 / 3 * LN2) ** 2, (0.0 - 0.769741 - 0.2 * LN2) ** 2],
    "kto_zero": [1 / (1 + 2**0.1), 1 / (1 + 2**-0.2)],
}


@pytest.mark.parametrize("name", RIVALS)
def test_value_by_hand(name):
    assert name in BY_HAND, f"{name} has no value worked out by hand: add it to BY_HAND in {Path(__file__).name}"
    close(call(name), BY_HAND[name])


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("rft", [1.0, 1.0]),
        ("awr", [math.e, math.exp(-2)]),
        ("a_lol_signed", [0.19, -0.038]),
        # beta (A - beta l)
        ("dro", [0.1 * 0.0306853, -0.1 * 0.3386294]),
        ("a_star", [0.001 * (0.5 - 1.399444 - 0.001 * LN2), 0.001 * (-1.0 - 0.445842 - 0.002 * LN2)]),
        ("qrpo", [2 * 0.1 / 3 * (0.5 - 0.886627 - 0.1 / 3 * LN2), 0.2 * (-0.769741 - 0.2 * LN2)]),
        # beta s (1 - s), s = 1 / (1 + 2^-0.1), up; and s = 1 / (1 + 2^-0.2), down
        ("kto_zero", [0.1 * 2**0.1 / (1 + 2**0.1) ** 2, -0.1 * 2**0.2 / (1 + 2**0.2) ** 2]),
    ],
)
def test_gradient_is_weight_times_gradient_of_nll(name, weights):
    first, second = weights
    close(gradient(name), [[-first] * 3, [-second, 0.0, 0.0]])


def test_awr_is_nll_at_a_high_temperature_and_its_weight_has_a_limit():
    torch.testing.assert_close(call("awr", beta=1e9), nll(logp=LOGP, mask=MASK))
    extreme = awr(logp=LOGP, mask=MASK, advantage=torch.tensor([1e6, -1e6]), beta=0.1, weight_limit=20.0)
    close(extreme, [20 * 6 * LN2, 0.0])


def test_a_lol_signed_without_negatives_is_a_lol():
    given = {"logp": LOGP, "mask": MASK, "ref_logp": REF, "advantage": ADVANTAGE, "clip": 0.9}
    torch.testing.assert_close(a_lol_signed(**given, negative=0.0), a_lol(**given))


def test_dro_without_beta_has_no_gradient_and_is_0_where_the_log_ratio_is_that_of_the_best_policy():
    assert gradient("dro", beta=0.0).abs().max() == 0
    # the optimum of KL-regularised reward: ln pi/pi_ref = A / beta
    best = torch.tensor([0.1 * LN2, 0.2 * LN2])
    close(dro(logp=LOGP, mask=MASK, ref_logp=REF, advantage=best, beta=0.1), [0.0, 0.0])


def test_kto_zero_at_the_reference_is_one_half_and_takes_weights():
    close(call("kto_zero", ref_logp=LOGP), [0.5, 0.5])
    close(call("kto_zero", ref_logp=LOGP, desirable=3.0, undesirable=0.5), [1.5, 0.25])
    nothing = kto_zero(
        logp=LOGP, mask=MASK, ref_logp=LOGP, advantage=torch.zeros(2), beta=0.1, desirable=3.0, undesirable=1.0
    )
    close(nothing, [0.5, 0.5])  # an advantage of 0 is none


def test_a_star_with_equal_answers_is_dro_and_its_value_is_between_their_mean_and_the_best():
    same = torch.tensor([[0.4, 0.4], [0.8, 0.8]])
    close(call("a_star", ref_rewards=same, reward=torch.tensor([0.5, 0.6]), beta=0.1), BY_HAND["dro"])
    for value_beta, value in ((1e4, 0.875), (1e-3, 2.0)):
        found = call("a_star", value_beta=value_beta, beta=0.0)[0]
        assert float((2 * found).sqrt()) == pytest.approx(value - 0.5, abs=1e-2)


def test_qrpo_is_0_where_the_log_ratio_is_that_of_the_best_policy():
    # q = b ln Z + b l, of the first response with its scale of 0.1 / 3
    scale = 0.1 / 3
    ref_logp = LOGP[:1] - torch.tensor([[(0.5 - scale * math.log(scale) - 1) / scale, 0.0, 0.0]])
    one = {"advantage": ADVANTAGE[:1], "reward": REWARD[:1], "ref_rewards": REF_REWARDS[:1]}
    close(call("qrpo", logp=LOGP[:1], mask=MASK[:1], ref_logp=ref_logp, **one), [0.0])


def test_qrpo_knows_its_partition_function_for_large_and_small_scales():
    # one answer below R: q = 1; at the reference the loss is (1 - b ln(b (e^(1/b) - 1)))^2
    high = {"ref_logp": LOGP, "reward": torch.full((2,), 9.0), "per_token": False}
    for beta in (0.2, 0.21, 1.0):
        exact = (1 - beta * math.log(beta * math.expm1(1 / beta))) ** 2
        assert call("qrpo", **high, beta=beta).tolist() == pytest.approx([exact, exact], abs=0.001)
    close(call("qrpo", **high, beta=1.0)[:1], [(1 - math.log(math.e - 1)) ** 2])


@pytest.mark.parametrize("name", RIVALS)
def test_padding_and_other_rows_change_nothing(name):
    pad = torch.full((2, 4), -3.0)
    longer = call(
        name, logp=torch.cat([LOGP, pad], 1), ref_logp=torch.cat([REF, -pad], 1), mask=torch.cat([MASK, pad * 0], 1)
    )
    torch.testing.assert_close(longer, call(name), atol=0, rtol=0)
    one = {"advantage": ADVANTAGE[:1], "reward": REWARD[:1], "ref_rewards": REF_REWARDS[:1]}
    alone = call(name, logp=LOGP[:1], mask=MASK[:1], ref_logp=REF[:1], **one)
    torch.testing.assert_close(alone, call(name)[:1], atol=0, rtol=0)


@pytest.mark.parametrize("name", RIVALS)
def test_losses_and_gradients_are_finite_at_extreme_log_probabilities(name):
    logp = torch.tensor([[-1e4, -1e-7, -50.0], [0.0, -1e4, 0.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    for advantage in (torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0])):
        assert gradient(name, logp=logp, mask=mask, ref_logp=torch.zeros(2, 3), advantage=advantage).isfinite().all()
        assert call(name, logp=logp, mask=mask, ref_logp=torch.zeros(2, 3), advantage=advantage).isfinite().all()
