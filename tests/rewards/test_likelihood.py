"""The reward of kind likelihood: transformers' own forward pass, uneven lengths, templates, what check refuses."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from alol import rewards
from alol.base.errors import InputError
from alol.checks import reward_parameters
from alol.data import schema
from tests import tokenizers
from tests.reward_project import load

PROMPTS = ["tell me about cats", "why?", "what do you think about dogs and cats and everything else?"]
RESPONSES = ["small cats", "I do not know, and nobody else does", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny LLaMA with a chat template."""
    place = tmp_path_factory.mktemp("llama")
    tokenizer = tokenizers.qwen()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def scores(tmp_path, folder, prompts=PROMPTS, responses=RESPONSES, contexts=None, **keys) -> np.ndarray:
    spec = {"kind": "likelihood", "model": str(folder), "max_prompt": 64, "max_response": 64, **keys}
    given = load(tmp_path, {"it": spec})
    assert reward_parameters.check(given) == []
    components = rewards.load(given.rewards, tmp_path / "none", given.launch)
    return components.score(prompts, responses, contexts or [{} for _ in prompts])["it"]


def direct(folder, prompt: list[int], response: list[int]) -> float:
    """Transformers' own mean log-probability of the response's tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logp = model(torch.tensor([prompt + response])).logits[0].double().log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return float(np.mean([logp[place, token] for place, token in zip(places, response, strict=True)]))


def test_it_is_the_mean_log_probability_with_the_end(tmp_path, folder):
    tokenizer = tokenizers.qwen()
    found = scores(tmp_path, folder)
    for prompt, response, score in zip(PROMPTS, RESPONSES, found, strict=True):
        ids = [tokenizer(text)["input_ids"] for text in (prompt, response)]
        assert score == pytest.approx(direct(folder, ids[0], [*ids[1], tokenizer.eos_token_id]), abs=1e-5)
    assert len(set(found.round(3))) == 3


def test_batches_and_order_do_not_matter_and_a_probability_is_its_exponential(tmp_path, folder):
    together = scores(tmp_path, folder)
    alone = [scores(tmp_path, folder, [p], [r])[0] for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    small = scores(tmp_path, folder, PROMPTS[::-1], RESPONSES[::-1], batch_size=2)[::-1]
    assert together == pytest.approx(alone, abs=1e-5)
    assert small == pytest.approx(together, abs=1e-5)
    powers = scores(tmp_path, folder, output="probability", low=0.0, high=1.0)
    assert powers == pytest.approx(np.exp(together), rel=1e-6)


def test_with_a_chat_template_it_reads_the_turns(tmp_path, folder):
    turns = [{"role": "human", "text": "hello"}, {"role": "assistant", "text": "hi"}, {"role": "human", "text": "why?"}]
    found = scores(tmp_path, folder, ["ignored"], ["I do not know"], [{"turns": turns}], template="chat")
    tokenizer = tokenizers.qwen()
    messages = [{"role": t["role"].replace("human", "user"), "content": t["text"]} for t in turns]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    said = [*tokenizer("I do not know")["input_ids"], tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert found[0] == pytest.approx(direct(folder, prompt, said), abs=1e-5)


def test_text_that_spells_the_end_token_is_letters(tmp_path, folder):
    tokenizer = tokenizers.qwen()
    end = tokenizer.eos_token
    letters = [*tokenizer("so" + end, split_special_tokens=True)["input_ids"], tokenizer.eos_token_id]
    found = scores(tmp_path, folder, ["why?"], ["so" + end])
    assert found[0] == pytest.approx(direct(folder, tokenizer("why?")["input_ids"], letters), abs=1e-5)


def test_the_marks_of_a_format_are_special_tokens(tmp_path, folder):
    tokenizer = tokenizers.qwen()
    end = tokenizer.eos_token
    found = scores(tmp_path, folder, [f"why?{end}"], ["so"], [{schema.PROMPT_MARKS: [4, 4 + len(end)]}])
    prompt = [*tokenizer("why?")["input_ids"], tokenizer.eos_token_id]
    assert found[0] == pytest.approx(direct(folder, prompt, [*tokenizer("so")["input_ids"], prompt[-1]]), abs=1e-5)


def test_messages_name_the_rewards_own_keys(tmp_path, folder):
    turns = [{"role": "system", "text": "Be brief. " * 20}, {"role": "human", "text": "why?"}]
    with pytest.raises(InputError, match=r"more than rewards\.it\.max_prompt = 20; raise it"):
        scores(tmp_path, folder, ["why?"], ["so"], [{"turns": turns}], template="chat", max_prompt=20)
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    tokenizer = AutoTokenizer.from_pretrained(bare)
    tokenizer.chat_template = None
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(bare)
    with pytest.raises(InputError, match=r"^rewards\.it\.template is chat, but the tokenizer has no chat template"):
        scores(tmp_path, bare, template="chat")


def test_bf16_is_close_and_the_machine_changes_nothing(tmp_path, folder):
    exact, rounded = scores(tmp_path, folder), scores(tmp_path, folder, precision="bf16")
    assert 0 < np.abs(exact - rounded).max() < 0.1
    spec = {"it": {"kind": "likelihood", "model": str(folder), "max_prompt": 64, "max_response": 64}}
    given = load(tmp_path, spec)
    machine = replace(given.launch, micro_batch=1, tokens=1, precision="bf16")
    other = rewards.load(given.rewards, tmp_path / "none", machine).score(PROMPTS, RESPONSES, [{}] * 3)["it"]
    assert other.tolist() == exact.tolist()


@pytest.mark.parametrize(
    ("keys", "key", "said"),
    [
        ({}, "rewards.it.model", "is not set; name a language model"),
        ({"model": "there/is/none"}, "rewards.it.model", "is there/is/none"),
        ({"output": "probability"}, "rewards.it.high", "is 0, but output is probability"),
        ({"template": "none.jinja"}, "rewards.it.template", "is 'none.jinja'"),
        ({"sha256": "abc"}, "rewards.it.sha256", "64 hexadecimal digits"),
    ],
)
def test_check_names_the_key(tmp_path, folder, keys, key, said):
    spec = {"kind": "likelihood", **({"model": str(folder)} if keys else {}), **keys}
    errors = reward_parameters.check(load(tmp_path, {"it": spec}))
    assert [(error.key, said in error.reason) for error in errors] == [(key, True)]


def test_a_context_that_is_too_short_is_said(tmp_path, folder):
    with pytest.raises(InputError, match=r"rewards\.it\.max_response = 500 are 564 tokens, more than .* 256"):
        scores(tmp_path, folder, max_response=500)


def test_no_response_is_likelier_than_sure(tmp_path, folder):
    assert all(score < 0 and math.isfinite(score) for score in scores(tmp_path, folder))
