"""A policy with a chat template through the stages: its prompts, the reference's numbers, and what is kept with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alol.checks import parameters
from alol.config import paths
from alol.data import schema
from alol.models import templates
from tests import small, tokenizers
from tests.conftest import tiny_model


def project(folder, name: str, **changes) -> None:
    tokenizer = tokenizers.CHAT[name]()
    tiny_model("llama", tokenizer).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    policy = {"model": str(folder / "base"), "template": "chat", "max_prompt": 100, "long_prompt": "shorten"}
    changes = {f"tasks__demo__policy__{key}": value for key, value in policy.items()} | changes
    small.write(folder, tasks__demo__reference__train=False, **changes)


@pytest.mark.parametrize("name", ["llama3", "mistral"])
def test_reference_log_probabilities_are_those_of_transformers(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    project(tmp_path, name)
    small.run(small.BEFORE_TRAIN)
    model = AutoModelForCausalLM.from_pretrained("base").eval()
    tokenizer = AutoTokenizer.from_pretrained("base")
    advantages = schema.table(paths.advantages("demo") / "train.parquet").to_pylist()
    rows = schema.rows(paths.annotated("demo") / "train.parquet")
    differences = []
    for row, source in list(zip(advantages, rows, strict=True))[:60]:
        roles = {"human": "user"}
        turns = [{"role": roles.get(t["role"], t["role"]), "content": t["text"]} for t in source["turns"]]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        assert len(ids) > 100 or row["prompt_ids"] == ids
        prompt, response = row["prompt_ids"], row["response_ids"]
        with torch.no_grad():
            logp = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
        expected = logp.gather(1, torch.tensor(response)[:, None])[:, 0].numpy()
        differences.append(np.array(row["ref_logp"]) - expected)
    errors = np.concatenate(differences)
    assert len(errors) > 300
    assert np.abs(errors).max() < 1e-4
    assert abs(errors.mean()) < 2e-6


def test_a_template_from_a_file_is_kept_with_the_trained_policy(tmp_path, monkeypatch):
    """For a base that has none, trained by LoRA; online, so that answers end at the template's end of turn."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/own.jinja").write_text(tokenizers.QWEN, encoding="utf-8")
    monkeypatch.setattr(tokenizers, "QWEN", None)
    template = {"tasks__demo__policy__template": "templates/own.jinja", "tasks__demo__policy__tuning": "lora"}
    project(tmp_path, "qwen", **template)
    small.run(small.BEFORE_TRAIN, "ppo")
    advantages = schema.table(paths.advantages("demo") / "train.parquet")
    (tmp_path / "templates/own.jinja").write_text("{{ edited }}", encoding="utf-8")  # by now the reference has its own
    small.run(["advantage", *small.FROM_TRAIN], "ppo")
    assert schema.table(paths.advantages("demo") / "train.parquet").equals(advantages)
    assert AutoTokenizer.from_pretrained("base").chat_template is None
    kept = AutoTokenizer.from_pretrained(paths.policy("demo", "ppo"))
    text = kept.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_a_wrong_template_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for template, line in (
        ("nowhere.jinja", "is 'nowhere.jinja', but must be text, chat or a .jinja file in templates/"),
        (str(tmp_path / "templates/x.jinja"), "but must be text, chat or a .jinja file in templates/"),
        ("templates/../x.jinja", "but must be text, chat or a .jinja file in templates/"),
        ("templates/x.txt", "but must be text, chat or a .jinja file in templates/"),
        ("templates/nowhere.jinja", "is 'templates/nowhere.jinja', which does not exist"),
    ):
        project(tmp_path, "qwen", tasks__demo__policy__template=template)
        assert line in small.error("reference")
        assert [line in one for one in parameters.problems("demo") if "policy.template" in one] == [True]


def test_the_template_that_comes_along_is_chatml(tmp_path, monkeypatch):
    """As Qwen's, but for the system text that Qwen's adds."""
    tokenizer = tokenizers.qwen()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    monkeypatch.chdir(small.ROOT)
    templates.keep("templates/chatml.jinja", tokenizer)
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == expected
    assert tokenizer.apply_chat_template(messages[1:], tokenize=False) == "<|im_start|>user\nHi<|im_end|>\n"
