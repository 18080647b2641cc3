"""Generation: order, padding, stops, sampling from the seed; and the encoding of long prompts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoConfig, AutoModelForCausalLM

from alol.base.errors import InputError
from alol.compute.generate import Decoding, finish, generate, sample_ids
from alol.compute.launch import Machine
from alol.config import params
from alol.models.tokens import Encoder
from tests.conftest import tiny_model

PROMPTS = [[5, 6, 7, 8, 9], [10], [11, 12, 13], [14, 15], [16, 17, 18, 19, 20, 21, 22]]
DEMO = params.load("demo")
SETTINGS = dataclasses.replace(DEMO.generate, max_new_tokens=8, beams=1, sample=False, repetition_penalty=1.0)


def run(model, tokenizer, prompts=PROMPTS, batch=3, seed=1, **changes):
    launch = dataclasses.replace(DEMO.launch, generate_batch=batch)
    settings = dataclasses.replace(SETTINGS, **changes)
    machine = Machine(Accelerator(cpu=True), launch)
    found = generate(model, tokenizer, prompts, Decoding(settings, seed), machine)
    return [text for text, _ in found]


def sampled(model, tokenizer, prompts=PROMPTS, **changes):
    """As token ids."""
    decoding = Decoding(dataclasses.replace(SETTINGS, **changes), 1)
    return sample_ids(model, tokenizer, prompts, decoding, Machine(Accelerator(cpu=True), DEMO.launch))


@torch.no_grad()
def plain_greedy(model, tokenizer, prompt, length=8):
    ids = list(prompt)
    for _ in range(length):
        ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_greedy_texts_are_those_of_one_prompt_alone_in_order(model, tokenizer, batch):
    assert run(model, tokenizer, batch=batch) == [plain_greedy(model, tokenizer, prompt) for prompt in PROMPTS]


def test_sampling_repeats_itself_from_the_seed(model, tokenizer):
    first, again, other = (run(model, tokenizer, sample=True, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_generation_leaves_the_callers_random_state_alone(model, tokenizer):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run(model, tokenizer, sample=True)
    assert torch.equal(torch.rand(2), expected)


def test_a_stop_id_ends_a_response(model, tokenizer):
    full = run(model, tokenizer, prompts=PROMPTS[:1])[0]
    first = tokenizer(full)["input_ids"][0]
    assert len(run(model, tokenizer, prompts=PROMPTS[:1], stop_ids=[first])[0]) <= len(tokenizer.decode([first]))


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("place", ["config", "generation_config"])
@pytest.mark.parametrize("several", [True, False])
def test_every_end_token_of_the_model_ends_a_response_and_is_no_text(tokenizer, monkeypatch, beams, place, several):
    """Also one that the tokenizer calls no special token, whose letters would be read as text."""
    model = tiny_model("gpt2", tokenizer)
    prompt = PROMPTS[:1]
    full = sampled(model, tokenizer, prompt, beams=beams)[0]
    assert len(full) == 8
    end = full[3]
    monkeypatch.setattr(getattr(model, place), "eos_token_id", [tokenizer.eos_token_id, end] if several else end)
    found = sampled(model, tokenizer, prompt, beams=beams)[0]
    assert found.index(end) == len(found) - 1
    if beams == 1:
        assert found == full[: full.index(end) + 1]
    assert run(model, tokenizer, prompt, beams=beams) == [tokenizer.decode(found[:-1]).strip()]


LEAKS = {
    "min_new_tokens": 8,
    "no_repeat_ngram_size": 1,
    "length_penalty": -5.0,
    "suppress_tokens": [0, 1],
    "bad_words_ids": [[20]],
    "forced_eos_token_id": 7,
    "top_k": 1,
    "temperature": 0.01,
    "min_p": 0.9,
    "num_beams": 4,
    "do_sample": True,
    "repetition_penalty": 5.0,
    "early_stopping": True,
    "cache_implementation": "static",
    "max_length": 9,
}


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "t5"])
@pytest.mark.parametrize("choice", [{"beams": 3}, {"sample": True}, {}])
def test_no_other_key_of_generation_config_matters(tokenizer, kind, choice):
    """gpt_neo and t5 run padded, the others by continuous batching; beams always padded."""
    model = gpt_neo() if kind == "gpt_neo" else tiny_model(kind, tokenizer)
    expected = sampled(model, tokenizer, **choice)
    for key, value in LEAKS.items():
        setattr(model.generation_config, key, value)
    own = model.generation_config
    assert sampled(model, tokenizer, **choice) == expected
    assert model.generation_config is own


def gpt_neo():
    ids = dict.fromkeys(("bos_token_id", "eos_token_id"), 1)
    config = AutoConfig.for_model(
        "gpt_neo", vocab_size=300, hidden_size=32, num_layers=1, num_heads=4, intermediate_size=64,
        attention_types=[[["global"], 1]], max_position_embeddings=64, initializer_range=0.5, **ids,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def test_responses_are_cut_and_stripped():
    settings = dataclasses.replace(SETTINGS, cut=["\n Human:", "\nHuman:"], stop=["###"])
    assert finish(" Yes.\nHuman: and?\n Human: x", settings) == "Yes."
    assert finish("Yes. ###", settings) == "Yes."
    assert finish("A ### B", settings) == "A ### B"


def encoder(tokenizer, limit, long_prompt="shorten"):
    policy = dataclasses.replace(DEMO.policy, max_prompt=limit, max_response=4, long_prompt=long_prompt)
    return Encoder(tokenizer, policy)


ROW = {"prompt_id": "p1", "prompt": "SYS\n one two three four. five six. seven", "cuts": [4, 24, 34]}


def test_long_prompts_lose_their_oldest_turns_and_keep_the_head(tokenizer):
    def ids(text):
        return tokenizer(text)["input_ids"]

    assert encoder(tokenizer, 100).prompts([ROW]) == [ids(ROW["prompt"])]
    second = ids("SYS\n five six. seven")
    assert encoder(tokenizer, len(second)).prompts([ROW]) == [second]
    third = ids("SYS\n seven")
    assert encoder(tokenizer, len(second) - 1).prompts([ROW]) == [third]
    head, tail = ids("SYS\n"), ids(" seven")
    assert encoder(tokenizer, len(head) + 2).prompts([ROW]) == [head + tail[-2:]]


def test_long_prompts_can_be_refused(tokenizer):
    with pytest.raises(InputError, match=r"prompt p1 has \d+ tokens, more than policy.max_prompt = 5"):
        encoder(tokenizer, 5, "refuse").prompts([ROW])


def test_a_head_that_fills_the_limit_leaves_half_to_the_last_turn(tokenizer):
    head, tail = tokenizer("a b c d e f g h")["input_ids"], tokenizer(" i j k l m n")["input_ids"]
    row = {"prompt_id": "p", "prompt": "a b c d e f g h i j k l m n", "cuts": [15]}
    assert encoder(tokenizer, 6).prompts([row]) == [head[:3] + tail[-3:]]
    assert encoder(tokenizer, 5).prompts([row]) == [head[:2] + tail[-3:]]
    assert encoder(tokenizer, len(head) + 1).prompts([row]) == [head + tail[-1:]]


def test_responses_end_with_end_of_text_unless_cut(tokenizer):
    short, long = encoder(tokenizer, 50).responses(["a", "a b c d e f g"])
    assert short[-1] == tokenizer.eos_token_id
    assert len(long) == 4
    assert long[-1] != tokenizer.eos_token_id
