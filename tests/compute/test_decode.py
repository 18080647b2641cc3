"""Continuous batching gives what the library's own generation gives, one prompt at a time."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import GenerationConfig

from alol.compute import packed_models
from alol.compute.generate import Choice, decode_all
from alol.config import params
from tests.compute.test_packing import decoder

PROMPTS = [[5, 6, 7, 8, 9], [10], [11, 12, 13], [14, 15], [16, 17, 18, 19, 20, 21, 22], [5, 6], [40, 41, 42, 43]]
DEMO = params.load("demo")
LONGEST = 12
SETTINGS = dataclasses.replace(
    DEMO.generate, max_new_tokens=LONGEST, beams=1, sample=False, repetition_penalty=1.0, stop=[], stop_ids=[]
)


def decoded(model, tokenizer, slots, tokens=8192, seed=0, **changes):
    launch = dataclasses.replace(DEMO.launch, generate_batch=slots, tokens=tokens)
    assert packed_models.packable(model)
    draws = torch.rand(len(PROMPTS), LONGEST, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    settings = dataclasses.replace(SETTINGS, **changes)
    choice = Choice(PROMPTS, settings, draws, torch.device("cpu"))
    return decode_all(model, tokenizer, choice, {tokenizer.eos_token_id, *settings.stop_ids}, launch)


def library(model, prompt, end, **options):
    """The library's response to one prompt, up to its end."""
    config = GenerationConfig(max_new_tokens=LONGEST, do_sample=False, eos_token_id=end, pad_token_id=0, **options)
    ids = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), generation_config=config)
    return ids[0, len(prompt) :].tolist()


def ends(model):
    """Words that the model says early to some prompts and never to others, so that responses end at many steps."""
    said = [library(model, prompt, 63) for prompt in PROMPTS]
    return [said[0][2], said[3][-1]]


@pytest.mark.parametrize("architecture", packed_models.DECODERS)
@pytest.mark.parametrize("slots", [1, 3, 8])
def test_greedy_responses_are_the_librarys(architecture, slots, tokenizer):
    model = decoder(architecture)
    end = [tokenizer.eos_token_id, *ends(model)]
    found, tokens = decoded(model, tokenizer, slots, stop_ids=end[1:])
    expected = [library(model, prompt, end) for prompt in PROMPTS]
    assert found == expected
    assert len({len(response) for response in found}) > 1
    # a prompt is read once, and each token of the response but the last one continues it
    assert tokens == sum(map(len, PROMPTS)) + sum(len(response) - 1 for response in found)


@pytest.mark.parametrize("tokens", [1, 6])
def test_prompts_read_a_few_at_a_time_get_the_same_responses(tokens, tokenizer):
    model = decoder("llama")
    assert decoded(model, tokenizer, 4, tokens) == decoded(model, tokenizer, 4)


def test_the_repetition_penalty_is_the_librarys(tokenizer):
    model = decoder("gpt2")
    found, _ = decoded(model, tokenizer, 3, repetition_penalty=1.7)
    assert found == [library(model, p, tokenizer.eos_token_id, repetition_penalty=1.7) for p in PROMPTS]
    assert found != decoded(model, tokenizer, 3)[0]


def test_sampled_responses_depend_on_their_own_numbers_alone(tokenizer):
    model = decoder("qwen2")
    settings = {"sample": True, "top_p": 0.9, "temperature": 0.8}
    first = decoded(model, tokenizer, 2, **settings)[0]
    assert first == decoded(model, tokenizer, 7, tokens=8, **settings)[0]
    assert first != decoded(model, tokenizer, 2, seed=1, **settings)[0]


def test_sampling_keeps_the_distribution_and_what_top_p_leaves_out(tokenizer):
    """First words of 4,000 draws against the softmax, of which top_p keeps the largest."""
    model = decoder("gpt2")
    assert packed_models.packable(model)
    with torch.no_grad():
        p = (model(torch.tensor([PROMPTS[0]])).logits[0, -1] / 2).softmax(-1)
    kept = p.sort(descending=True).values.cumsum(0)
    count = int((kept < 0.8).sum()) + 1
    top = p.topk(count)
    draws = torch.rand(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    settings = dataclasses.replace(SETTINGS, max_new_tokens=1, sample=True, temperature=2.0, top_p=0.8)
    launch = dataclasses.replace(DEMO.launch, generate_batch=4000, tokens=40000)
    choice = Choice([PROMPTS[0]] * 4000, settings, draws, torch.device("cpu"))
    found, _ = decode_all(model, tokenizer, choice, {1}, launch)
    counts = torch.bincount(torch.tensor(found)[:, 0], minlength=len(p))
    assert set(counts.nonzero()[:, 0].tolist()) <= set(top.indices.tolist())
    expected = top.values / top.values.sum()
    # four standard deviations of a binomial proportion
    assert ((counts[top.indices] / 4000 - expected).abs() < 4 * (expected * (1 - expected) / 4000).sqrt()).all()


@pytest.mark.parametrize("architecture", packed_models.DECODERS)
def test_bf16_gives_the_librarys_responses(architecture, tokenizer):
    """Under autocast, keys and values have types of their own in models that rotate the keys."""
    model = decoder(architecture)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = decoded(model, tokenizer, 3)
        expected = [library(model, prompt, tokenizer.eos_token_id) for prompt in PROMPTS]
    same = sum(one == other for one, other in zip(found, expected, strict=True))
    assert same >= len(PROMPTS) - 2  # near ties are rounded another way in another order
