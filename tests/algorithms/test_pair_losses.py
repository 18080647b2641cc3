"""The losses over ranked responses against closed forms, worked by hand with the numbers beside them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from alol.algorithms.offline import total
from alol.algorithms.pairs import PAIRS, dpo, dpo_ref_free, ipo, orpo, pro, simpo
from tests.registered import constants

# two responses of 2 and 3 tokens; the third token of the first is padding, with a number that must not matter
LOGP = torch.tensor([[[-1.0, -2.0, -9.0], [-1.0, -1.0, -2.5]]])
REF = torch.tensor([[[-1.5, -2.5, -7.0], [-0.5, -1.0, -2.0]]])
MASK = torch.tensor([[[1, 1, 0], [1, 1, 1]]])
THREE = torch.tensor([[[-1.0, -3.0], [-0.5, -0.5], [-2.0, -4.0]]])  # mean token log-probabilities -2, -0.5, -3
FULL = torch.ones(1, 3, 2, dtype=torch.long)
REWARDS = torch.tensor([[2.0, 1.0, -1.0]])


def arguments(name: str, logp, mask, reward=None, ref=None):
    given = {"ref_logp": torch.zeros_like(logp) if ref is None else ref, "raw_reward": reward}
    return {"logp": logp, "mask": mask, **{key: given[key] for key in PAIRS[name].columns}, **constants(name)}


def close(actual, expected):
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=1e-5, atol=1e-6)


def test_dpo_by_hand():
    # log-ratios: chosen -3 - -4 = 1, rejected -4.5 - -3.5 = -1; margin 0.1 x 2 = 0.2; ln(1 + e^-0.2) = 0.598139
    close(dpo(logp=LOGP, mask=MASK, ref_logp=REF, beta=0.1), [0.598139])
    # without the reference: 0.1 x (-3 - -4.5) = 0.15; ln(1 + e^-0.15) = 0.620957
    close(dpo_ref_free(logp=LOGP, mask=MASK, beta=0.1), [0.620957])


def test_dpo_at_the_start_is_ln_2():
    close(dpo(logp=LOGP, mask=MASK, ref_logp=LOGP, beta=0.1), [math.log(2)])


def test_dpo_over_three_responses_is_the_mean_of_its_pairs():
    # sums -4, -1, -6: margins 0.1 x -3 and 0.1 x 2; (0.854355 + 0.598139) / 2
    close(dpo_ref_free(logp=THREE, mask=FULL, beta=0.1), [0.726247])


def test_the_gradient_of_dpo_is_that_of_the_paper():
    logp = LOGP.clone().requires_grad_()
    dpo(logp=logp, mask=MASK, ref_logp=REF, beta=0.1).sum().backward()
    # beta sigmoid(-0.2) = 0.1 x 0.450166 on every token, up for the chosen and down for the rejected
    expected = 0.0450166 * torch.tensor([[[-1.0, -1.0, 0.0], [1.0, 1.0, 1.0]]])
    close(logp.grad, expected)


def test_ipo_by_hand():
    # mean log-ratios 1 / 2 and -1 / 3; 1 / (2 x 0.5) = 1: (5 / 6 - 1)^2
    close(ipo(logp=LOGP, mask=MASK, ref_logp=REF, beta=0.5), [1 / 36])
    close(ipo(logp=LOGP, mask=MASK, ref_logp=LOGP, beta=0.1), [25.0])  # at the reference: (1 / (2 beta))^2
    # means -2, -0.5 and -3 against 0: ((-1.5 - 1)^2 + (1 - 1)^2) / 2
    close(ipo(logp=THREE, mask=FULL, ref_logp=torch.zeros(1, 3, 2), beta=0.5), [3.125])


def test_simpo_by_hand():
    # means -1.5 and -1.5: ln(1 + e^1) = 1.313262
    close(simpo(logp=LOGP, mask=MASK, beta=2.0, gamma=1.0), [1.313262])
    # means -2, -0.5 and -3: 2 x -1.5 - 1 = -4 and 2 x 1 - 1 = 1; (4.018150 + 0.313262) / 2
    close(simpo(logp=THREE, mask=FULL, beta=2.0, gamma=1.0), [2.165706])


def test_simpo_without_a_margin_is_reference_free_dpo_of_responses_as_long():
    close(simpo(logp=THREE, mask=FULL, beta=1.0, gamma=0.0), dpo_ref_free(logp=THREE, mask=FULL, beta=0.5))


def test_orpo_by_hand():
    # means -ln 2 and -ln 4, odds 1 / 2 / (1 / 2) = 1 and 1 / 4 / (3 / 4) = 1 / 3; their ratio 3: sigmoid(ln 3) = 3 / 4
    logp = torch.tensor([[[-math.log(2), 9.0], [-math.log(2), -math.log(8)]]])
    mask = torch.tensor([[[1, 0], [1, 1]]])
    close(orpo(logp=logp, mask=mask, odds_weight=0.5), [math.log(2) - 0.5 * math.log(0.75)])
    close(orpo(logp=logp, mask=mask, odds_weight=0.0), [math.log(2)])


def test_orpo_of_a_response_that_is_certain_is_finite():
    logp = torch.tensor([[[0.0, 0.0], [-1.0, -1.0]]], requires_grad=True)
    loss = orpo(logp=logp, mask=FULL[:, :2], odds_weight=0.1)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logp.grad.isfinite().all()


def test_pro_with_equal_rewards_ranks_at_ln_2():
    close(pro(logp=LOGP, mask=MASK, raw_reward=torch.zeros(1, 2), sft_weight=0.0), [math.log(2)])


def test_pro_with_equal_rewards_keeps_the_order_and_ranks_without_a_gradient():
    # ln 3 for k = 0, ln 2 for k = 1; the first response is the best: 1 x 4 x 4
    logp = THREE.clone().requires_grad_()
    close(pro(logp=logp, mask=FULL, raw_reward=torch.zeros(1, 3), sft_weight=1.0), [math.log(6) + 16])
    pro(logp=logp, mask=FULL, raw_reward=torch.zeros(1, 3), sft_weight=0.0).sum().backward()
    close(logp.grad, torch.zeros(1, 3, 2))


def test_pro_ranks_what_would_underflow():
    # means -100 and -100, T = 2: ln(2 e^-200) + 200 = ln 2, though e^-200 is 0 in fp32
    logp = torch.full((1, 2, 2), -100.0)
    reward = torch.tensor([[2.0, 0.0]])
    close(pro(logp=logp, mask=FULL[:, :2], raw_reward=reward, sft_weight=0.0), [math.log(2)])


def test_pro_by_hand():
    # the first two of THREE, means -2 and -0.5, T = 1: ln(e^-2 + e^-0.5) + 2 = 1.701413; SFT: 0.05 x 1 x 4 = 0.2
    close(pro(logp=THREE[:, :2], mask=FULL[:, :2], raw_reward=REWARDS[:, :2], sft_weight=0.05), [1.701413 + 0.2])
    # means -1.5 and -1.5, T = 2: ln(2 e^-3) + 3 = ln 2; SFT: 0.05 x 1 x 3 = 0.15
    close(pro(logp=LOGP, mask=MASK, raw_reward=torch.tensor([[2.0, 0.0]]), sft_weight=0.05), [math.log(2) + 0.15])
    # the other way round, still means of 3 and 2 tokens: ln 2; SFT on the second: 0.05 x 1 x 4.5 = 0.225
    close(pro(logp=LOGP, mask=MASK, raw_reward=torch.tensor([[0.0, 2.0]]), sft_weight=0.05), [math.log(2) + 0.225])
    # k = 0: T_01 = 1, T_02 = 3 = T_00: ln(e^-6 + e^-0.5 + e^-9) + 6 = 5.504281
    # k = 1: T_12 = 2 = T_11: ln(e^-1 + e^-6) + 1 = 0.006715
    # SFT: 0.05 x 4 x 4 = 0.8
    close(pro(logp=THREE, mask=FULL, raw_reward=REWARDS, sft_weight=0.05), [5.504281 + 0.006715 + 0.8])


def test_pro_scores_the_first_token_and_not_the_one_after_the_last():
    reward = torch.tensor([[2.0, 0.0]])
    before = pro(logp=LOGP, mask=MASK, raw_reward=reward, sft_weight=0.05)
    first, after = LOGP.clone(), LOGP.clone()
    first[0, 0, 0] -= 1.0
    after[0, 0, 2] -= 5.0
    assert (pro(logp=first, mask=MASK, raw_reward=reward, sft_weight=0.05) - before).item() > 0.1
    close(pro(logp=after, mask=MASK, raw_reward=reward, sft_weight=0.05), before)


@pytest.mark.parametrize("order", [*map(list, itertools.permutations(range(3)))])
def test_pro_ranks_by_reward_whatever_the_order(order):
    shuffled = pro(logp=THREE[:, order], mask=FULL, raw_reward=REWARDS[:, order], sft_weight=0.05)
    close(shuffled, pro(logp=THREE, mask=FULL, raw_reward=REWARDS, sft_weight=0.05))


@pytest.mark.parametrize("name", PAIRS)
def test_padding_and_absent_responses_change_nothing(name):
    def padded(x):
        return torch.nn.functional.pad(x, (0, 2, 0, 1), value=-3 if x.is_floating_point() else 0)

    reward = torch.tensor([[2.0, 0.5]])
    loss, hyper = PAIRS[name].loss, arguments(name, LOGP, MASK, reward, REF)
    wide = arguments(name, padded(LOGP), padded(MASK), torch.tensor([[2.0, 0.5, 9.0]]), padded(REF))
    close(loss(**wide), loss(**hyper))


@pytest.mark.parametrize("name", PAIRS)
def test_prompts_with_fewer_responses_share_a_batch(name):
    two = torch.cat([THREE[:, :2], torch.zeros(1, 1, 2)], dim=1)
    mask = torch.tensor([[[1, 1], [1, 1], [0, 0]]])
    reward = torch.tensor([[2.0, 1.0, 0.0]])
    loss = PAIRS[name].loss
    both = loss(**arguments(name, torch.cat([THREE, two]), torch.cat([FULL, mask]), torch.cat([REWARDS, reward])))
    alone = loss(**arguments(name, THREE[:, :2], FULL[:, :2], reward[:, :2]))
    close(both[1], alone[0])
    close(both[0], loss(**arguments(name, THREE, FULL, REWARDS))[0])


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_are_finite_at_extremes_and_with_absent_responses(name):
    logp = torch.tensor([[[-1e4, -1e4], [-1e-6, -1e-6], [0.0, 0.0]]], requires_grad=True)
    mask = torch.tensor([[[1, 1], [1, 1], [0, 0]]])
    loss = PAIRS[name].loss(**arguments(name, logp, mask, torch.tensor([[5.0, 5.0, 0.0]])))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logp.grad).all()
    assert torch.equal(logp.grad[0, 2], torch.zeros(2))


def test_sums_run_over_response_tokens():
    close(total(LOGP, MASK), [[-3.0, -4.5]])
