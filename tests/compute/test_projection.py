"""Log-probabilities a block at a time: equal to the plain log-softmax, forward and gradient, whatever the block."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from alol.compute.projection import token_logp

COUNT, WIDTH, WORDS = 11, 6, 23


def inputs(bias: bool, scale: float = 3.0):
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, WORDS, bias=bias)
    with torch.no_grad():
        head.weight.mul_(scale)
    states = torch.randn(COUNT, WIDTH, requires_grad=True)
    return states, head, torch.randint(WORDS, (COUNT,)), torch.linspace(-2, 3, COUNT)


def gradients(logp, weights, *of):
    return torch.autograd.grad((logp * weights).sum(), of)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 4, 11, 100])
def test_values_and_gradients_are_those_of_the_plain_log_softmax(rows, bias):
    states, head, targets, weights = inputs(bias)
    plain = head(states).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    logp = token_logp(states, head, targets, block=rows * WORDS)
    torch.testing.assert_close(logp, plain, rtol=1e-5, atol=1e-6)
    expected = gradients(plain, weights, states, *head.parameters())
    for one, other in zip(gradients(logp, weights, states, *head.parameters()), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_frozen_head_gets_no_gradient():
    states, head, targets, weights = inputs(bias=False)
    head.requires_grad_(False)
    (token_logp(states, head, targets, block=4 * WORDS) * weights).sum().backward()
    assert head.weight.grad is None
    expected = torch.autograd.grad((head(states).log_softmax(-1)[range(COUNT), targets] * weights).sum(), states)
    torch.testing.assert_close(states.grad, expected[0], rtol=1e-5, atol=1e-6)


def test_a_log_probability_below_what_a_float_can_hold_is_exact():
    head = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0], [200.0], [200.0]]))
    logp = token_logp(torch.ones(2, 1), head, torch.tensor([0, 1]))
    assert logp.tolist() == pytest.approx([-200 - math.log(2), -math.log(2)], rel=1e-6)


def test_another_layer_than_a_linear_one_is_called():
    states, head, targets, _ = inputs(bias=False)
    wrapped = nn.Sequential(head)
    expected = token_logp(states, head, targets)
    torch.testing.assert_close(token_logp(states, wrapped, targets), expected, rtol=1e-5, atol=1e-6)


def test_bf16_arithmetic_gives_an_fp32_result():
    states, head, targets, weights = inputs(bias=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp = token_logp(states, head, targets, block=4 * WORDS)
        plain = head(states).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert logp.dtype == torch.float32
    torch.testing.assert_close(logp, plain, rtol=1e-5, atol=1e-5)
    (logp * weights).sum().backward()
    (expected,) = torch.autograd.grad((head(states).log_softmax(-1)[range(COUNT), targets] * weights).sum(), states)
    assert (states.grad - expected).norm() / expected.norm() < 0.02  # bf16 has 8 bits
    assert head.weight.grad.dtype == torch.float32
