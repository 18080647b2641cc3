"""Which texts are scored together: the component's own parameters say so, and nothing else changes the scores."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from alol import rewards
from alol.base.errors import InputError
from alol.base.files import read_json
from alol.config import yaml_files
from alol.rewards import network, options
from benchmarks import project
from stages import annotate
from stages import reward_model as reward_stage
from tests.reward_project import load, write_clean, write_labels
from tests.rewards.test_reward_training import LABELS, labelled, pairs
from tests.rewards.test_rewards_networks import bert, gpt2, reward_model
from tests.rewards.test_task_rewards import offensive, roberta

WORDS = "small cats and dogs do not know what everybody else may think about them".split()
TRIPLE = {"head": "PersonX likes PersonY", "relation": "xNeed"}
MAKERS = {  # what makes the model, and the component that scores with it
    "classifier": (bert, {"kind": "classifier"}),
    "decoder": (gpt2, {"kind": "classifier", "output": "logit"}),
    "fluency": (bert, {"kind": "fluency", "revision": None}),
    "critic": (lambda folder: roberta(folder, 1), {"kind": "critic"}),
    "toxichat": (offensive, {"kind": "toxichat"}),
    "preference": (lambda folder: reward_model(folder, "last"), {"kind": "preference", "output": "logit"}),
    "mean": (lambda folder: reward_model(folder, "mean"), {"kind": "preference", "output": "logit"}),
}
NETWORKS = {name for name, (cls, _) in options.KINDS.items() if "max_length" in cls.__dataclass_fields__}
LAUNCHES = [
    {"micro_batch": 64, "tokens": 8192},
    {"micro_batch": 1, "tokens": 64},
    {"micro_batch": 3, "tokens": 8192, "generate_batch": 1},
    {"micro_batch": 64, "tokens": 1, "recompute": True, "precision": "bf16"},
]


def texts(count: int) -> list[str]:
    """Of 0 to 9 words, so that batches have texts of many lengths."""
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, i % 10)) for i in range(count)]


def component(tmp_path, kind: str, stored: bool):
    """The parameters of one component, its model made; `stored`: as the scorer of a stored one."""
    make, spec = MAKERS[kind]
    spec = {**spec, "model": str(make(tmp_path / "model")), "low": None, "high": None}
    if stored:
        spec = {"kind": "stored", "column": "absent", "scorer": spec, "low": None, "high": None}
    return load(tmp_path, {"it": spec})


def test_every_kind_of_network_is_tried():
    assert {spec["kind"] for _, spec in MAKERS.values()} - {"fluency"} == NETWORKS


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("kind", MAKERS)
def test_scores_do_not_depend_on_launch(tmp_path, kind, stored):
    given = component(tmp_path, kind, stored)
    rows = ["why?"] * 45, texts(45), [TRIPLE] * 45
    found = []
    for keys in LAUNCHES:
        launch = dataclasses.replace(given.launch, **keys)
        found.append(rewards.load(given.rewards, tmp_path / "none", launch).score(*rows)["it"])
    assert found[0].std() > 0
    assert all(other.tobytes() == found[0].tobytes() for other in found)


@pytest.mark.parametrize(("keys", "largest"), [({"batch_size": 7}, 7), ({"batch_tokens": 1}, 1), ({}, 45)])
def test_the_components_own_parameters_say_what_is_scored_together(tmp_path, monkeypatch, keys, largest):
    sizes = []

    def counted(it, rows):
        sizes.append(len(rows))
        return network.last_states(it, rows)

    monkeypatch.setattr("alol.rewards.preference.last_states", counted)
    given = component(tmp_path, "preference", True)
    given.rewards["it"]["scorer"] |= keys
    made = rewards.load(given.rewards, tmp_path / "none", given.launch)
    made.score(["why?"] * 45, texts(45), [{}] * 45)
    assert (max(sizes), sum(sizes)) == (largest, 45)


def test_a_text_scored_alone_gets_the_score_that_it_gets_among_others(tmp_path):
    given = component(tmp_path, "classifier", False)
    given.rewards["it"]["batch_size"] = 1
    made = rewards.load(given.rewards, tmp_path / "none", given.launch)
    together = made.score(["why?"] * 20, texts(20), [{}] * 20)["it"]
    alone = [made.score(["why?"], [text], [{}])["it"][0] for text in texts(20)]
    assert together.tolist() == alone


@pytest.mark.parametrize("key", ["batch_size", "batch_tokens"])
@pytest.mark.parametrize("kind", sorted(NETWORKS))
def test_a_batch_has_a_text_or_more(tmp_path, kind, key):
    given = load(tmp_path, {"it": {"kind": kind, "model": "m", key: 0}})
    with pytest.raises(InputError, match=rf"rewards\.it\.{key} is 0, but must be at least 1"):
        options.parse(given.rewards["it"], "rewards.it")


def test_the_stages_write_the_same_bytes_under_every_launch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"layers": 1, "width": 32, "heads": 2, "vocabulary": 320, "folds": 2, "epochs": 1}
    specs = {
        "good": {"kind": "classifier", "inputs": ["response"], "train": {"texts": "tone", **sizes}},
        "liked": {"kind": "preference", "train": sizes},
    }
    clean = write_clean(tmp_path / "data/clean/mine", train=pairs(30))
    write_labels(clean, "tone", labelled(40))
    written = []
    for keys in LAUNCHES:
        load(tmp_path, specs, clean={"labels": LABELS})
        raw = yaml_files.read_params(tmp_path)
        project.change(raw, {f"launch.{key}": value for key, value in keys.items()})
        (tmp_path / "params.yaml").write_text(json.dumps(raw))  # which is YAML too
        for stage in (reward_stage, annotate):
            assert CliRunner().invoke(stage.main, ["--task", "mine"], catch_exceptions=False).exit_code == 0
        files = [Path("metrics/reward_model.json"), *Path("models").rglob("*"), *Path("data/annotated").rglob("*")]
        written.append({path: path.read_bytes() for path in files if path.is_file()})
    assert {path.name for path in written[0]} >= {"reward_model.json", "model.safetensors", "train.parquet"}
    assert all(other == written[0] for other in written)
    kept = read_json(Path("data/annotated/mine/settings.json"))["rewards"]["liked"]
    assert (kept["batch_size"], kept["batch_tokens"]) == (64, 8192)
