"""Every stage with activations in bf16, on tiny policies of the architectures that are published most."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import AutoConfig

from alol.compute import launch
from alol.compute.launch import Machine
from alol.config import params, paths
from alol.data import schema
from alol.models import policies, scratch
from alol.models.loading import language_model_class
from alol.training import value, value_head
from tests import small

UNTIL_ANNOTATE, FROM_REFERENCE = small.BEFORE_TRAIN[:4], small.BEFORE_TRAIN[4:]
DECODER = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
ARCHITECTURES = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "llama": {**DECODER, "tie_word_embeddings": True},
    "qwen2": DECODER,
    "mistral": {**DECODER, "sliding_window": 32},  # which is padded
    "t5": {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
}
PRECISION = {
    "launch__precision": "bf16",
    "tasks__demo__rewards__helpful__precision": "bf16",
    "tasks__demo__rewards__helpful__train__precision": "bf16",
}
SHORT = {
    "tasks__demo__reference__updates": 2, "tasks__demo__reference__evaluations": 1,
    "tasks__demo__reference__optimizer__warmup": 1, "tasks__demo__train__updates": 6,
    "tasks__demo__train__evaluations": 1, "tasks__demo__generate__max_new_tokens": 6,
    "algorithms__ppo__updates_per_rollout": 6, "algorithms__ppo__epochs": 1,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def precision():
    """A process has one precision, whichever came first."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project in which everything before reference has run: its stages read no policy."""
    return small.made(tmp_path_factory.mktemp("bf16"), UNTIL_ANNOTATE, **PRECISION)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request, folder):
    """A folder with a model of random weights, as `save_pretrained` writes it."""
    rows = schema.read(folder / "data/clean/demo/train.parquet", ["prompt", "response"])
    tokenizer = scratch.train_tokenizer((text for group in rows for row in group for text in row.values()), 400)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = AutoConfig.for_model(request.param, **ARCHITECTURES[request.param], vocab_size=len(tokenizer) + 8, **ids)
    torch.manual_seed(0)
    target = folder / "published" / request.param
    language_model_class(config).from_config(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


@pytest.mark.parametrize("tuning", ["full", "lora", "qlora"])
def test_every_stage_runs(folder, model, tuning, monkeypatch):
    monkeypatch.chdir(folder)
    changes = {"model": str(model), "tuning": tuning, "lora__r": 4, "lora__alpha": 8}
    small.write(folder, **PRECISION, **SHORT, **{f"tasks__demo__policy__{key}": one for key, one in changes.items()})
    small.run(FROM_REFERENCE)
    values_are_those_of_the_stage_that_fitted_them()
    small.run(["train"], "ppo")
    small.run(small.FROM_TRAIN, "a_lol")
    for algorithm in ("ppo", "a_lol"):
        assert np.isfinite([step["loss"] for step in small.read_training(algorithm)["curve"]]).all()
    # the stored log-probabilities are those of the policy that is not trained yet, but for what padding rounds
    padded = model.name in ("mistral", "t5")
    assert small.read_training("a_lol")["curve"][0]["abs_log_ratio"] < (5e-2 if padded else 1e-6)
    weights = "model" if tuning == "full" else "adapter_model"
    assert (paths.policy("demo", "a_lol") / f"{weights}.safetensors").exists()
    assert 0 <= small.summary()["policy"]["all"]["reward"] <= 2


def values_are_those_of_the_stage_that_fitted_them():
    """V(x) of stage advantage is that of the head for the states that stage value gives it, batched otherwise."""
    p = params.load("demo")
    table = schema.table(paths.advantages("demo") / "train.parquet")
    found = dict(zip(map(tuple, table["prompt_ids"].to_pylist()), table["value"].to_pylist(), strict=True))
    policy, main = policies.load(paths.reference("demo")), launch.accelerator(p.launch)
    launch.placed(policy.model, main, trained=False)
    with main.autocast():
        states = value.collect_states(policy.model, list(found), 0, Machine(main, p.launch), 7)
    fitted = value_head.predict(value_head.load(paths.value("demo")), states, 5)
    np.testing.assert_allclose(list(found.values()), fitted, atol=1e-6, rtol=0)
    assert len(set(found.values())) == len(found) > 30  # 16 bits tell few values apart
