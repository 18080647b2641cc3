"""The value head: bounds, fitting, its held-out error, and the way to disk and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import AutoConfig, AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from alol.base.errors import InputError
from alol.compute.launch import Machine, placed
from alol.config import params
from alol.training import advantage, value, value_head

SETTINGS = dataclasses.replace(
    params.load("demo").value, heads=2, dropout=0.0, epochs=30, lr=1e-2, folds=3, batch_size=8
)


def prompts(count=60, seed=0):
    """States of prompts of 1 to 5 tokens, and a reward that their mean decides."""
    generator = torch.Generator().manual_seed(seed)
    states = [torch.randn(1 + i % 5, 8, generator=generator) for i in range(count)]
    return states, np.array([torch.sigmoid(3 * row.mean(0)[0]).item() for row in states])


def fit(states, rewards, bounds=(0.0, 1.0), **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    return value.fit(states, rewards, settings, bounds, [str(i) for i in range(len(states))])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_predictable_reward_is_predicted_better_than_by_the_best_constant(kind):
    result = fit(*prompts(), head=kind)
    assert result.mse < 0.7 * result.mse_constant
    assert result.epochs > 0


def test_an_unpredictable_reward_falls_back_to_the_constant():
    states, _ = prompts()
    noise = np.random.default_rng(0).integers(0, 2, len(states)).astype(float)
    result = fit(states, noise, epochs=3, lr=1e-4)
    assert result.mse == pytest.approx(result.mse_constant, rel=0.05)


def test_held_out_error_of_the_constant_by_hand():
    """Three folds of two: a fold's constant is the mean of the others' rewards, wherever the rewards lie."""
    states = [torch.zeros(1, 8) for _ in range(6)]
    result = fit(states, np.full(6, 0.25), epochs=0)
    assert result.mse_constant == 0
    np.testing.assert_allclose(result.values, 0.25, atol=1e-6)


def test_the_output_stays_between_the_bounds_and_is_linear_without():
    torch.manual_seed(0)
    states, mask = 100 * torch.randn(64, 3, 8), torch.ones(64, 3)
    bounded = value_head.ValueHead(8, 2, 0.0, "linear", (-3.0, 1.0))(states, mask)
    assert bounded.min() >= -3
    assert bounded.max() <= 1
    head = value_head.ValueHead(8, 2, 0.0, "linear", (0.0, None))
    assert head(states, mask).min() < 0


@pytest.mark.parametrize("bounds", [(-3.0, 1.0), (None, None), (0.0, None)])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_head_starts_near_the_mean_reward(bounds, kind):
    torch.manual_seed(0)
    head = value_head.ValueHead(8, 2, 0.0, kind, bounds).eval()
    states = 100 * torch.randn(5, 3, 8)
    head.start_at(0.5, constant=True)
    assert head(states, torch.ones(5, 3)).tolist() == pytest.approx([0.5] * 5, abs=1e-6)
    head = value_head.ValueHead(8, 2, 0.0, kind, bounds).eval()
    head.start_at(0.5)
    assert head(torch.zeros(4, 3, 8), torch.ones(4, 3)).mean().item() == pytest.approx(0.5, abs=0.3)


def test_dropout_is_off_when_the_head_is_used(tmp_path):
    states, rewards = prompts(30)
    result = fit(states, rewards, dropout=0.5, epochs=2)
    settings = dataclasses.replace(SETTINGS, dropout=0.5)
    value.save(result, tmp_path / "value", settings)
    loaded = value_head.load(tmp_path / "value")
    first, again = (value_head.predict(loaded, states, 4) for _ in range(2))
    assert np.array_equal(first, again)
    np.testing.assert_allclose(first, value_head.predict(result.head, states, 30), atol=1e-6)
    assert not loaded.training


def test_the_seed_decides_the_fit():
    states, rewards = prompts(30)
    values = [fit(states, rewards, seed=seed, epochs=3).values for seed in (1, 1, 2)]
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_too_few_prompts_are_refused():
    with pytest.raises(InputError, match=r"value\.folds is 3, but the 5 validation prompts"):
        fit(*prompts(5))


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match=r"value\.heads is 3, which does not divide the model's width 8"):
        fit(*prompts(), heads=3)


def test_the_constant_of_a_fold_is_the_mean_of_the_others():
    rewards, fold = np.arange(6.0), np.array([0, 0, 1, 1, 2, 2])
    assert value.constants(rewards, fold, 3).tolist() == [3.5, 3.5, 2.5, 2.5, 1.5, 1.5]


def test_the_judged_error_is_noise_and_what_is_still_to_learn():
    """Means 0.5, variances within a prompt 0.5 (denominator 1): the mean of 2 is off by 0.25; V by 0.3."""
    found = value.judge(np.full(6, 0.8), np.array([[0.0, 1.0]] * 6), SETTINGS)
    assert (found.answers, found.mse_constant, found.noise) == (2, 0.0, 0.25)
    assert found.mse == pytest.approx(0.09)
    assert found.learnable == pytest.approx(-0.16)


def test_what_is_still_to_learn_does_not_depend_on_how_many_answers_judge():
    """V is off by 0.2 at 4,000 prompts, an answer's reward has a variance of 0.25."""
    draw = np.random.default_rng(0)
    truth = draw.uniform(size=4000)
    answers = truth[:, None] + draw.choice([-0.5, 0.5], (4000, 8))
    for count, noise in ((2, 0.125), (8, 0.03125)):
        found = value.judge(truth + 0.2, answers[:, :count], SETTINGS)
        assert found.noise == pytest.approx(noise, rel=0.02)
        assert found.learnable == pytest.approx(0.04, abs=0.006)


def decoder(architecture, **changes):
    sizes = {
        "vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 128, **changes,
    }  # fmt: skip
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes))


def gpt2():
    sizes = {"vocab_size": 400, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **sizes, bos_token_id=1, eos_token_id=1))


MODELS = {
    "gpt2": gpt2,
    "llama": lambda: decoder("llama"),
    "qwen2": lambda: decoder("qwen2"),
    "mistral": lambda: decoder("mistral", sliding_window=8),  # which is padded
    "mistral, packed": lambda: decoder("mistral", sliding_window=None),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=400, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0)
    ),
}


@pytest.fixture
def bf16():
    """A process has one precision, whichever came first."""
    AcceleratorState._reset_state(True)
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("name", MODELS)
def test_in_bf16_advantages_have_the_values_of_the_stage_that_fitted_them(bf16, name):
    """What follows a prompt would round its states otherwise, and V would move by up to 2e-4."""
    torch.manual_seed(0)
    model = placed(MODELS[name]().eval(), bf16, trained=False)
    head = value_head.ValueHead(64, 4, 0.0, "linear", (0.0, 4.0)).eval()
    generator = torch.Generator().manual_seed(1)
    asked, answers = (
        [torch.randint(3, 300, (int(n),), generator=generator).tolist() for n in torch.randint(1, most, (24,))]
        for most in (40, 20)
    )
    machine = Machine(bf16, dataclasses.replace(params.load("demo").launch, micro_batch=6))
    with torch.no_grad(), bf16.autocast():
        states = value.collect_states(model, asked, 0, machine, 24)
        fitted = value_head.predict(head, states, 5)
        _, values = advantage._measure(model, head, asked, answers, 0, machine)
    np.testing.assert_allclose(values, fitted, atol=1e-6, rtol=0)
    assert len(set(fitted)) == len(set(map(tuple, asked))) > 20
