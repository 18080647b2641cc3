"""Encoder-decoder policies: log-probabilities, prompt states, generation against the plain model, a whole graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig

from alol.base.errors import InputError
from alol.compute.batching import Batch
from alol.compute.generate import Decoding, sample_ids
from alol.compute.launch import Machine
from alol.compute.logprob import prompt_states, response_logp, response_logp_and_states
from alol.config import params
from alol.config.sections import Scratch
from alol.models import policies, scratch
from tests import small
from tests.closure import ROOT

PROMPTS = [[5, 9, 23, 31, 2], [17, 40, 2], [8, 11, 12, 13, 14, 15, 16, 2]]
RESPONSES = [[7, 8, 1], [30, 31, 32, 33, 1], [21, 1]]


@pytest.fixture(scope="module", params=["t5", "bart"])
def model(request, tokenizer):
    torch.manual_seed(0)
    if request.param == "t5":
        settings = Scratch(architecture="t5", layers=2, width=32, heads=4, context=64, vocabulary=400, init_scale=1.0)
        made = scratch.new_model(settings, tokenizer, 0)
    else:
        config = BartConfig(
            vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
            pad_token_id=0, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None,
        )  # fmt: skip
        made = BartForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return made


def plain(model, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Log-probabilities of the response's tokens by the model's own shifting of labels, without padding."""
    labels = torch.tensor([response])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt]), labels=labels).logits
    return -F.cross_entropy(logits[0], labels[0], reduction="none")


@torch.no_grad()
def test_log_probabilities_are_those_of_the_models_own_labels(model):
    found = response_logp(model, Batch(PROMPTS, RESPONSES, 0, "cpu"))
    for row, prompt, response in zip(found, PROMPTS, RESPONSES, strict=True):
        expected = plain(model, prompt, response)
        assert row[: len(response)].tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)
        assert row[len(response) :].abs().sum() == 0
    with_states, states = response_logp_and_states(model, Batch(PROMPTS, RESPONSES, 0, "cpu"))
    assert with_states.tolist() == found.tolist()
    assert states.shape == (3, 5, 32)


@torch.no_grad()
def test_padding_and_order_do_not_matter(model):
    together = response_logp(model, Batch(PROMPTS, RESPONSES, 0, "cpu"))
    wider = Batch([*PROMPTS[::-1], list(range(2, 30))], [*RESPONSES[::-1], [9] * 12], 0, "cpu")
    again = response_logp(model, wider)
    assert torch.allclose(again[:3, :5].flip(0), together, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_prompt_states_are_the_encoders(model):
    states = prompt_states(model, Batch(PROMPTS, RESPONSES, 0, "cpu"))
    assert [row.shape for row in states] == [(len(prompt), 32) for prompt in PROMPTS]
    for row, prompt in zip(states, PROMPTS, strict=True):
        expected = model.get_encoder()(input_ids=torch.tensor([prompt])).last_hidden_state[0]
        assert row.flatten().tolist() == pytest.approx(expected.flatten().tolist(), rel=1e-3, abs=1e-4)


@torch.no_grad()
def test_greedy_responses_are_those_of_one_prompt_alone(model, tokenizer):
    given = params.load("demo", "nll", ROOT)
    settings = given.generate.__class__(**{**vars(given.generate), "max_new_tokens": 6})
    machine = Machine(Accelerator(cpu=True), given.launch)
    found = sample_ids(model, tokenizer, PROMPTS, Decoding(settings, 1), machine)
    config = GenerationConfig(
        max_new_tokens=6, do_sample=False, eos_token_id=1, pad_token_id=0,
        decoder_start_token_id=model.config.decoder_start_token_id,
    )  # fmt: skip
    for ids, prompt in zip(found, PROMPTS, strict=True):
        alone = model.generate(input_ids=torch.tensor([prompt]), generation_config=config)[0, 1:].tolist()
        assert ids == alone[: len(ids)]
        assert len(ids) == len(alone)


def test_a_saved_model_is_found_to_be_one(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = policies.base_model(str(tmp_path), None, quantized=False)
    batch = Batch(PROMPTS, RESPONSES, 0, "cpu")
    with torch.no_grad():
        assert torch.allclose(response_logp(loaded, batch), response_logp(model, batch), rtol=0, atol=1e-6)


def test_prompt_and_response_have_a_context_each(model):
    limit = policies.context_length(model)
    if limit is None:
        policies.check_context(model, 10_000, 10_000, "generate.max_new_tokens")
        return
    policies.check_context(model, limit, limit, "generate.max_new_tokens")
    with pytest.raises(InputError, match=r"generate\.max_new_tokens is 65, more than the model's context of 64"):
        policies.check_context(model, limit, limit + 1, "generate.max_new_tokens")


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    changes = {"tasks__demo__policy__scratch__architecture": "t5"}
    return small.made(tmp_path_factory.mktemp("seq2seq"), small.BEFORE_TRAIN, **changes)


@pytest.mark.parametrize("algorithm", ["a_lol", "wbc", "dpo", "ppo"])
def test_the_whole_graph_runs_with_a_t5(graph, monkeypatch, algorithm):
    monkeypatch.chdir(graph)
    small.run(small.FROM_TRAIN, algorithm)
    curve = small.read_training(algorithm)["curve"]
    assert curve[0].get("abs_log_ratio", 0.0) < 1e-3
    assert (Path("models/demo") / algorithm / "model.safetensors").exists()
    assert small.summary()["policy"]["all"]["length"] > 0


def test_an_adapter_is_trained_on_a_t5(graph, monkeypatch):
    monkeypatch.chdir(graph)
    changes = {"tasks__demo__policy__scratch__architecture": "t5", "tasks__demo__policy__tuning": "lora"}
    small.write(graph, **changes)
    small.run(["reference", "rollout", "baseline", "value", "advantage", "train"])
    assert (Path("models/demo/a_lol/adapter_model.safetensors")).exists()
    assert small.read_training()["curve"][0]["abs_log_ratio"] < 1e-3
