"""What a reward may learn (pairs, classes, numbers) and how (every weight, adapters, a head on a frozen model)."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

from alol import rewards
from alol.base.errors import InputError
from alol.checks import reward_parameters
from alol.compute import packed_models
from alol.data import schema
from alol.rewards import adapters, backbones, fitting, training, untrained
from alol.rewards.examples import gather
from alol.rewards.options import fitted
from stages import annotate, reward_model
from tests.conftest import tiny_model
from tests.reward_project import load, row, write_clean, write_labels
from tests.rewards.test_reward_training import LABELS, SMALL, WORDS, labelled, pairs
from tests.rewards.test_rewards_networks import bert

OPEN = {"low": None, "high": None}


def rated(count: int) -> list[dict]:
    """Two responses to a prompt, each with one word that says how many stars it has."""
    draw = random.Random(3)
    rows = []
    for i in range(count):
        for rank in range(2):
            stars = draw.randrange(3)
            words = [("poor", "fair", "fine")[stars], *draw.choices(WORDS, k=4)]
            draw.shuffle(words)
            rows.append(row(f"rate {i}", " ".join(words), rank, stars=3.0 + stars, up=stars > 0))
    return rows


def write_scores(clean: Path, name: str, rows: list[dict]) -> None:
    cells = [
        {"prompt": r["prompt"], "response": r["response"], "context": {}, "score": r["context"]["stars"]} for r in rows
    ]
    schema.write(clean / "labels" / f"{name}.parquet", schema.SCORED, cells)


@pytest.fixture
def encoder(tmp_path) -> str:
    return str(bert(tmp_path / "encoder"))


@pytest.fixture
def decoder(tmp_path, tokenizer) -> str:
    folder = tmp_path / "decoder"
    tiny_model("llama", tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def train(tmp_path: Path, spec: dict, clean: Path, name: str = "models"):
    given = load(tmp_path, {"it": spec}, clean={"labels": {**LABELS, "stars": {**LABELS["tone"], **STARS}}})
    assert reward_parameters.check(given) == []
    metrics = training.train(given.rewards, clean, tmp_path / name, given.launch)["it"]
    return metrics, rewards.load(given.rewards, tmp_path / name, given.launch)


STARS = {"score": "s", "label": None, "classes": []}
SCORES = {"objective": "scores", "texts": "responses", "column": "stars", "folds": 2}
UP = {"objective": "labels", "texts": "responses", "column": "up", "folds": 2}


@pytest.mark.parametrize(
    ("kind", "learnt"),
    [
        ({"kind": "classifier", "inputs": ["response"], "output": "logit", "max_length": 24, **OPEN}, SCORES),
        ({"kind": "preference", "output": "logit", "max_length": 32, **OPEN}, SCORES),
        ({"kind": "preference", "max_length": 32}, UP),
        ({"kind": "classifier", "output": "sigmoid", "max_length": 32}, {"objective": "pairs", "folds": 2}),
    ],
)  # fmt: skip
def test_small_models_learn_numbers_votes_and_pairs(tmp_path, kind, learnt):
    rows = pairs(80) if learnt["objective"] == "pairs" else rated(120)
    clean = write_clean(tmp_path / "clean", train=rows)
    metrics, components = train(tmp_path, {**kind, "train": {**SMALL, **learnt}}, clean)
    words = ("good house", "bad house") if learnt["objective"] == "pairs" else ("fine moon house", "poor moon house")
    high, low = components.score(["p", "p"], list(words), [{}, {}])["it"]
    assert metrics["models"] == 3
    if learnt["objective"] == "scores":
        assert metrics["spearman"] > 0.8
        assert metrics["mse"] < metrics["mse_constant"] / 2
        assert high == pytest.approx(5, abs=0.8) and low == pytest.approx(3, abs=0.8)
        assert json.loads((tmp_path / "models/it/full/trained.json").read_text())["mean"] == pytest.approx(
            np.mean([r["context"]["stars"] for r in rows])
        )
    else:
        assert metrics["accuracy"] > 0.85
        assert high > low
        assert not list((tmp_path / "models/it").rglob("trained.json"))


def test_numbers_stay_within_the_declared_bounds(tmp_path):
    clean = write_clean(tmp_path / "clean", train=rated(40))
    spec = {"kind": "classifier", "inputs": ["response"], "output": "logit", "max_length": 24, "low": 3.0, "high": 5.0}
    _, components = train(tmp_path, {**spec, "train": {**SMALL, **SCORES, "epochs": 2}}, clean)
    found = components.score(["p"] * 3, ["fine " * 9, "poor " * 9, ""], [{}] * 3)["it"]
    assert found.min() >= 3.0 and found.max() <= 5.0
    with pytest.raises(
        InputError, match=r"run from 3 to 5, beyond the component's bounds \[0, 4\]; set rewards.it.low"
    ):
        train(tmp_path, {**spec, "low": 0.0, "high": 4.0, "train": {**SMALL, **SCORES}}, clean)


@pytest.mark.parametrize("given", ["encoder", "decoder"])
@pytest.mark.parametrize("kind", ["preference", "classifier"])
@pytest.mark.parametrize("learnt", ["pairs", "labels", "scores"])
def test_heads_on_a_frozen_model(tmp_path, request, given, kind, learnt):
    rows = pairs(60) if learnt == "pairs" else rated(60)
    clean = write_clean(tmp_path / "clean", train=rows)
    write_labels(clean, "tone", labelled(120))
    keys = {"pairs": {}, "labels": UP, "scores": SCORES}[learnt]
    head = {**keys, "objective": learnt, "tuning": "head", "init": request.getfixturevalue(given), "folds": 2}
    spec = {"kind": kind, "output": "logit", "max_length": 40, **OPEN}
    spec |= {"inputs": ["response"]} if kind == "classifier" else {"human": "H: ", "assistant": "A: "}
    metrics, components = train(tmp_path, {**spec, "train": head}, clean)
    figure = "spearman" if learnt == "scores" else "accuracy"
    assert metrics[figure] > (0.3 if learnt == "scores" else 0.6)
    assert metrics["models"] == 3
    files = {path.name for path in (tmp_path / "models/it/fold0").iterdir()}
    assert files - {"trained.json"} == {"head.safetensors", "head.json"}
    one = components._components["it"]
    texts = [[r[name] for r in rows] for name in ("prompt", "response")]
    found = components.score(*texts, [r["context"] for r in rows], origin="train")["it"]
    assert one._named("fold0").model is one._named("fold1").model is one._named("full").model
    if learnt == "pairs":
        assert np.mean(found[::2] > found[1::2]) == pytest.approx(metrics["accuracy"], abs=0.01)
    elif learnt == "scores":
        error = np.mean((found - [r["context"]["stars"] for r in rows]) ** 2)
        assert error == pytest.approx(metrics["mse"], rel=1e-3)


def test_two_texts_and_further_texts_have_a_head_too(tmp_path, encoder):
    clean = write_clean(tmp_path / "clean")
    write_scores(clean, "stars", rated(60))
    spec = {"kind": "classifier", "output": "logit", "max_length": 40, **OPEN}
    head = {"objective": "scores", "texts": "stars", "tuning": "head", "init": encoder, "l2": 2.0}
    metrics, _ = train(tmp_path, {**spec, "train": head}, clean)
    assert metrics["models"] == 1
    assert json.loads((tmp_path / "models/it/full/head.json").read_text())["l2"] == 2.0
    softmax = {"kind": "classifier", "inputs": ["response"], "max_length": 40}
    write_labels(clean, "tone", labelled(120))
    metrics, components = train(
        tmp_path, {**softmax, "train": {"texts": "tone", "tuning": "head", "init": encoder}}, clean, "b"
    )
    assert metrics["accuracy"] > 0.6
    assert 0 < components.score(["p"], ["good river"], [{}])["it"][0] < 1
    assert load_file(tmp_path / "b/it/full/head.safetensors")["weight"].shape == (2, 16)


def test_a_head_on_another_model_than_it_was_made_for_is_refused(tmp_path, encoder):
    clean = write_clean(tmp_path / "clean", train=pairs(20))
    spec = {"kind": "preference", "max_length": 40, "train": {"tuning": "head", "init": encoder, "folds": 2}}
    train(tmp_path, spec, clean)
    model = AutoModel.from_pretrained(encoder)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[7] += 1
    model.save_pretrained(encoder)
    given = load(tmp_path, {"it": spec})
    with pytest.raises(InputError, match=r"rewards.it.train.init is not the model that .*full was made for; run `dvc"):
        rewards.load(given.rewards, tmp_path / "models", given.launch)


@pytest.mark.parametrize("how", ["mean", "last"])
@pytest.mark.parametrize("given", ["encoder", "decoder"])
def test_pooled_states_are_those_of_each_text_alone(tmp_path, request, monkeypatch, given, how):
    name = request.getfixturevalue(given)
    spec = {"kind": "classifier", "max_length": 40, "train": {"texts": "tone", "tuning": "head", "init": name}}
    [(_, options)] = fitted(load(tmp_path, {"it": spec}, clean={"labels": LABELS}).rewards)
    network = untrained.frozen(options, "rewards.it")
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name)
    texts = ["why?", "tell me more of it"], ["small cats", "I do not know what"]
    rows = network.encode(*texts, [{}, {}])
    with torch.no_grad():
        for ready in (True, False):
            if not ready:  # as an architecture that is not known to run without padding
                network = untrained.frozen(options, "rewards.it")
                monkeypatch.setattr(packed_models, "ready", lambda *_: False)
            found = backbones.pooled(network, rows, how)
            for i, pair in enumerate(zip(*texts, strict=True)):
                states = model(**tokenizer(*pair, return_tensors="pt")).last_hidden_state[0]
                assert rows[i].ids.tolist() == tokenizer(*pair)["input_ids"]
                expected = states.mean(0) if how == "mean" else states[-1]
                assert found[i].tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("given", ["encoder", "decoder"])
@pytest.mark.parametrize("kind", ["preference", "classifier"])
def test_adapters_are_trained_saved_alone_and_share_a_base(tmp_path, request, given, kind):
    name = request.getfixturevalue(given)
    rows = pairs(60) if kind == "preference" else rated(60)
    clean = write_clean(tmp_path / "clean", train=rows)
    keys = {"init": name, "tuning": "lora", "folds": 2, "epochs": 4, "lr": 1e-2, "batch_size": 16}
    spec = {"kind": kind, "output": "logit", "max_length": 40, **OPEN}
    spec |= {"inputs": ["response"], "train": {**keys, **SCORES}} if kind == "classifier" else {"train": keys}
    metrics, components = train(tmp_path, spec, clean)
    files = {path.name for path in (tmp_path / "models/it/fold0").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "trained.json"}
    assert json.loads((tmp_path / "models/it/full/adapter_config.json").read_text())["base_model_name_or_path"] == name
    texts = [[r[key] for r in rows] for key in ("prompt", "response")]
    found = components.score(*texts, [r["context"] for r in rows], origin="train")["it"]
    full = components.score(*texts, [r["context"] for r in rows], origin="source")["it"]
    assert np.abs(full - found).mean() > 1e-3
    again = components.score(*texts, [r["context"] for r in rows], origin="train")["it"]
    assert again.tolist() == found.tolist()
    if kind == "preference":
        assert np.mean(found[::2] > found[1::2]) == pytest.approx(metrics["accuracy"], abs=0.01)
    else:
        error = np.mean((found - [r["context"]["stars"] for r in rows]) ** 2)
        assert error == pytest.approx(metrics["mse"], rel=1e-3)


@pytest.mark.parametrize("tuning", ["head", "lora", "full"])
@pytest.mark.parametrize("kind", ["preference", "classifier"])
def test_chats_by_a_template_can_be_learnt_too(tmp_path, monkeypatch, decoder, tuning, kind):
    """From a file, which travels with what was trained or is read again beside it."""
    monkeypatch.chdir(tmp_path)
    template = Path("templates/chat.jinja")
    template.parent.mkdir()
    template.write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}")
    clean = write_clean(tmp_path / "clean", train=pairs(30))
    keys = {"init": decoder, "tuning": tuning, "folds": 2, "epochs": 1, "objective": "pairs"}
    spec = {"kind": kind, "output": "logit", "max_length": 64, "template": str(template), **OPEN, "train": keys}
    metrics, components = train(tmp_path, spec, clean)
    assert metrics["rows"] == 30
    network = components._components["it"]._network
    [row] = network.encode(["why?"], ["it is"], [{}])
    assert network.tokenizer.decode(row.ids) == "[user]why?\n[assistant]it is\n"


def test_a_head_that_looks_like_the_body_gets_no_adapters(encoder):
    from tests.rewards.test_rewards_networks import training as defaults

    model = AutoModel.from_pretrained(encoder)
    model.base_model_prefix, model.query = "encoder", torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"lora cannot tell this model's head \(.*query"):
        adapters.wrapped(model, defaults().lora, "rewards.it")


@pytest.mark.parametrize("given", ["encoder", "decoder"])
def test_a_preference_model_may_start_from_any_model(tmp_path, request, given):
    clean = write_clean(tmp_path / "clean", train=pairs(60))
    keys = {"init": request.getfixturevalue(given), "folds": 2, "epochs": 3, "lr": 3e-3, "batch_size": 16}
    metrics, components = train(tmp_path, {"kind": "preference", "max_length": 40, "train": keys}, clean)
    better, worse = components.score(["p", "p"], ["good stone", "bad stone"], [{}, {}])["it"]
    assert metrics["accuracy"] > 0.65
    assert better > worse
    marks = json.loads((tmp_path / "models/it/full/tokenizer.json").read_text())["added_tokens"]
    assert {"<|prompter|>", "<|assistant|>"} <= {token["content"] for token in marks}


@pytest.mark.parametrize("learnt", ["pairs", "scores"])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(tmp_path, encoder, learnt):
    clean = write_clean(tmp_path / "clean", train=pairs(12) if learnt == "pairs" else rated(10))
    keys = {} if learnt == "pairs" else {**SCORES, "texts": "responses"}
    gradients, counts = [], []
    for budget in ({}, {"batch_tokens": 40}, {"batch_size": 3}):
        spec = {
            "kind": "preference",
            "output": "logit",
            "max_length": 32,
            **OPEN,
            **budget,
            "train": {"init": encoder, **keys},
        }
        [(_, options)] = fitted(load(tmp_path, {"it": spec}).rewards)
        examples = gather(clean, options, "rewards.it")
        torch.manual_seed(0)
        network = untrained.preference(options, "rewards.it", backbones.checkpoint_tokenizer(options, "rewards.it"))
        network.model.eval()  # no dropout, which draws anew for each part
        run, sizes = network.logits, []
        network.logits = lambda rows, run=run, sizes=sizes: sizes.append(len(rows)) or run(rows)
        batch = range(len(examples.members))
        encoded = network.encode(*zip(*examples.rows, strict=True))
        dataset = fitting.Dataset(examples, encoded, (4.0, 2.0) if learnt == "scores" else None)
        fitting.accumulate(network, dataset, batch, options)
        gradients.append(torch.cat([p.grad.flatten() for p in network.model.parameters() if p.grad is not None]))
        counts.append(sizes)
    assert len(counts[0]) == 1
    assert all(len(sizes) > 5 and sum(sizes) == sum(counts[0]) for sizes in counts[1:])
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() < 1e-5 * gradients[0].norm()


def test_training_in_bf16_learns_as_well(tmp_path):
    clean = write_clean(tmp_path / "clean", train=pairs(60))
    spec = {"kind": "preference", "max_length": 32, "train": {**SMALL, "folds": 2, "precision": "bf16"}}
    metrics, _ = train(tmp_path, spec, clean)
    assert metrics["accuracy"] > 0.9
    weights = load_file(tmp_path / "models/it/full/model.safetensors")
    assert {str(weight.dtype) for weight in weights.values()} == {"float32"}


def test_responses_are_read_with_their_numbers(tmp_path):
    rows = [row("p", "a", 0, stars=4), row("p", "b", 1), row("q", "c", 0, stars=2.5), row("held", "d", 0, stars=1)]
    clean = write_clean(tmp_path / "clean", train=rows, test=[row("held", "x")])
    spec = {"kind": "classifier", "output": "logit", **OPEN, "train": SCORES}
    [(_, options)] = fitted(load(tmp_path, {"it": spec}).rewards)
    found = gather(clean, options, "rewards.it")
    assert [(r[1], target) for r, target in zip(found.rows, found.targets, strict=True)] == [("a", 4.0), ("c", 2.5)]
    assert found.shared and found.objective == "scores"
    write_clean(clean, train=[row("p", "a", 0, stars="four")])
    with pytest.raises(
        InputError, match=r"it.train.column: context.stars of prompt 'p' is 'four', but must be a number"
    ):
        gather(clean, options, "rewards.it")
    write_clean(clean, train=[row("p", "a", 0, up=0.5)])
    [(_, options)] = fitted(load(tmp_path, {"it": {"kind": "preference", "train": UP}}).rewards)
    with pytest.raises(InputError, match=r"context.up of prompt 'p' is 0.5, but must be 0 or 1"):
        gather(clean, options, "rewards.it")
    write_clean(clean, train=[row("p", "a")])
    with pytest.raises(InputError, match=r"no example \(a response with context.up\)"):
        gather(clean, options, "rewards.it")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "classifier", "train": {"objective": "pairs"}}, "objective is pairs, which needs one logit"),
        ({"kind": "classifier", "train": {**SCORES, "column": None}, "output": "logit"}, "train.column is not set"),
        (
            {"kind": "classifier", "train": SCORES},
            "train.objective is scores, but numbers come as they are; set output",
        ),
        ({"kind": "critic", "train": SCORES}, "objective is scores, but a critic's output is a probability"),
        ({"kind": "preference", "train": {"column": "stars"}}, "train.column is read with texts: responses alone"),
        ({"kind": "preference", "train": {"tuning": "head"}}, "tuning is head, which needs a model: name one in init"),
        ({"kind": "classifier", "train": {"objective": "labels", "texts": "stars"}}, "stars has a score"),
        (
            {"kind": "classifier", "output": "logit", "train": {"objective": "scores", "texts": "tone"}},
            "tone has classes",
        ),
        ({"kind": "preference", "train": {"l2": 0.0}}, "train.l2 is 0.0, but must be above 0"),
    ],
)
def test_what_does_not_fit_together_is_named(tmp_path, spec, message):
    labels = {**LABELS, "stars": {**LABELS["tone"], **STARS}}
    try:
        lines = [
            str(error) for error in reward_parameters.check(load(tmp_path, {"it": spec}, clean={"labels": labels}))
        ]
    except InputError as error:
        lines = [str(error)]
    assert len(lines) == 1
    assert message in lines[0]


def test_the_stages_run_with_a_head_and_go_on_from_their_work(tmp_path, monkeypatch, encoder):
    monkeypatch.chdir(tmp_path)
    spec = {"kind": "preference", "max_length": 40, "train": {"tuning": "head", "init": encoder, "folds": 2}}
    load(tmp_path, {"liked": spec})
    write_clean(tmp_path / "data/clean/mine", train=pairs(40))
    for stage in (reward_model, annotate):
        assert CliRunner().invoke(stage.main, ["--task", "mine"], catch_exceptions=False).exit_code == 0
    metrics = json.loads(Path("metrics/reward_model.json").read_text())["liked"]
    found = schema.rows(Path("data/annotated/mine/train.parquet"))
    better = [a["reward_liked"] > b["reward_liked"] for a, b in zip(found[::2], found[1::2], strict=True)]
    assert np.mean(better) == pytest.approx(metrics["accuracy"], abs=0.02)
    assert {path.suffix for path in Path("models").rglob("*") if path.is_file()} == {".json", ".safetensors"}
