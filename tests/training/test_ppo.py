"""PPO: its functions by hand, the start of a run, and that a run repeats itself and earns more."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from alol.algorithms import ppo as losses
from alol.compute.generate import Decoding
from alol.compute.launch import Machine
from alol.config import build, params
from alol.models import policies, trainable
from alol.training import planning
from alol.training.loop import Checkpointing
from alol.training.ppo import Environment, Options, Trainer
from tests.conftest import tiny_model

MASK = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])


def close(actual, expected):
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), rtol=1e-5, atol=1e-6)


def test_gae_by_hand():
    rewards = torch.tensor([[0.0, -0.5, 1.0], [0.2, 1.0, 0.0]])
    values = torch.tensor([[0.5, 1.0, 2.0], [0.0, 0.4, 9.0]])
    advantages, returns = losses.gae(rewards=rewards, values=values, mask=MASK, gamma=1.0, lam=0.5)
    # row 0: d = 0 + 1 - 0.5 = 0.5; -0.5 + 2 - 1 = 0.5; 1 - 2 = -1 -> A = 0.5 + 0.5 x 0, 0.5 + 0.5 x -1, -1
    # row 1, two tokens, nothing after them: d = 0.2 + 0.4 - 0 = 0.6; 1 - 0.4 = 0.6 -> A = 0.6 + 0.5 x 0.6, 0.6
    close(advantages, [[0.5, 0.0, -1.0], [0.9, 0.6, 0.0]])
    close(returns, [[1.0, 1.0, 1.0], [0.9, 1.0, 0.0]])


def test_token_rewards_by_hand():
    logp, ref_logp = torch.full((2, 3), -1.0), torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -1.0, -9.0]])
    found = losses.token_rewards(score=torch.tensor([2.0, -1.0]), logp=logp, ref_logp=ref_logp, mask=MASK, kl_coef=0.2)
    # -0.2 x (0, 1, -0.5) + 2 at the third; -0.2 x (2, 0) - 1 at the second
    close(found, [[0.0, -0.2, 2.1], [-0.4, -1.0, 0.0]])


def test_whitened_numbers_by_hand():
    # over 1, 2, 3, 4, 5: mean 3, unbiased variance 2.5
    found = losses.whiten(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 99.0]]), MASK)
    close(found, [[-1.2649111, -0.6324555, 0.0], [0.6324555, 1.2649111, 0.0]])


def test_clipped_losses_by_hand():
    one = torch.ones(1, 4)
    ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5]])
    advantage = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    # the smaller of 1.5 and 1.2, of 0.5 and 0.8, of -1.5 and -1.2, of -0.5 and -0.8, each negated
    found = losses.policy_loss(logp=ratio.log(), old_logp=one * 0, advantage=advantage, mask=one, clip=0.2)
    close(found, -1.2 - 0.5 + 1.5 + 0.8)
    # V 1.0 for old 0.5 is clipped to 0.7; returns 2 and 0: 0.5 (max(1, 1.69) + max(1, 0.49))
    found = losses.value_loss(
        values=torch.ones(1, 2), old_values=torch.full((1, 2), 0.5), returns=torch.tensor([[2.0, 0.0]]),
        mask=torch.ones(1, 2), clip=0.2,
    )  # fmt: skip
    close(found, 0.5 * (1.69 + 1.0))


def test_the_kl_penalty_by_hand():
    assert losses.adapted_kl_coef(0.2, 12.0, 6.0, 16, 10000) == pytest.approx(0.2 * (1 + 0.2 * 0.0016))
    assert losses.adapted_kl_coef(0.2, 5.4, 6.0, 16, 10000) == pytest.approx(0.2 * (1 - 0.1 * 0.0016))


def test_running_moments_are_those_of_all_scores():
    moments, scores = losses.RunningMoments(), torch.arange(12.0) ** 2
    for part in scores.split([5, 1, 6]):
        moments.update(part)
    assert moments.mean == pytest.approx(np.mean(scores.numpy()))
    assert moments.std == pytest.approx(np.std(scores.numpy(), ddof=1))


def even(rows, texts):
    """The share of even characters: something that a policy can move within a few steps."""
    return np.array([np.mean([ord(c) % 2 == 0 for c in text]) if text else 0.0 for text in texts])


def trainer(architecture, tokenizer, micro_batch=16, **changes):
    loaded = params.load("demo", "ppo")
    options = build.build(Options, {**loaded.hyperparameters, **changes}, "algorithms.ppo")
    policy = policies.LoadedPolicy(tiny_model(architecture, tokenizer), tokenizer, {"base": None})
    ids = [[5 + i, 6, 7][: 1 + i % 3] for i in range(16)]
    environment = Environment(lambda drawn: ([{} for _ in drawn], [ids[i] for i in drawn]), even)
    decoding = Decoding(dataclasses.replace(loaded.generate, max_new_tokens=8), 1)
    machine = Machine(Accelerator(cpu=True), dataclasses.replace(loaded.launch, micro_batch=micro_batch))
    return Trainer(policy, trainable.frozen_logp(policy, None), environment, options, decoding, machine)


def fit(run: Trainer, steps: int, scores=(0.1, 0.2), bar=0.0):
    kept, given = [], iter(scores)
    draws = torch.arange(16).repeat(steps, 1)
    plan = planning.Plan(draws, [max(1, steps // 2), steps], 0.0)
    optimizer = dataclasses.replace(params.load("demo", "ppo").train.optimizer, lr=3e-3, schedule="constant")
    return run.fit(plan, optimizer, Checkpointing(lambda: next(given), lambda: kept.append(1), bar)), kept


def test_a_run_starts_at_the_reference(architecture, tokenizer):
    run = trainer(architecture, tokenizer)
    experience, entry = run._rollout(1, list(range(16)))
    assert abs(entry["kl"]) < 1e-5
    first = run._minibatch(experience, list(range(16)))
    assert first["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert first["clipped"] == 0
    # whitened advantages have mean 0, so the policy loss is 0 where every ratio is 1
    assert abs(first["policy_loss"]) < 1e-5


def test_a_run_repeats_itself_and_micro_batches_do_not_matter(architecture, tokenizer):
    runs = [fit(trainer(architecture, tokenizer, n), 2)[0].curve for n in (16, 16, 3)]
    assert runs[0] == runs[1]
    # the second rollout samples from weights that differ in their last bits, so the first step is compared
    for name in ("loss", "policy_loss", "value_loss", "reward", "kl"):
        assert runs[2][0][name] == pytest.approx(runs[0][0][name], rel=1e-3, abs=1e-5)


def test_the_reward_rises(tokenizer):
    history, kept = fit(trainer("gpt2", tokenizer, kl_coef=0.0, lr_scale=1.0), 30)
    rewards = [entry["reward"] for entry in history.curve]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.1
    assert (history.selected, len(kept)) == (1, 2)


def test_the_last_checkpoint_is_kept_when_none_beats_the_reference(tokenizer):
    history, kept = fit(trainer("gpt2", tokenizer), 2, bar=1.0)
    assert (history.selected, len(kept)) == (0, 1)
