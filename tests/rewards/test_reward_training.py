"""Training reward components: folds, held-out accuracy, equal seeds, and what the models learn."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from alol import rewards
from alol.base.errors import InputError
from alol.data import schema
from alol.rewards import fitting, training
from alol.rewards.examples import divide, gather
from alol.rewards.folds import fold, key
from alol.rewards.options import fitted
from stages import annotate, reward_model
from tests.reward_project import load, row, write_clean, write_labels

SMALL = {"layers": 1, "width": 32, "heads": 2, "vocabulary": 320, "batch_size": 16, "epochs": 8}
SMALL |= {"dropout": 0.0, "lr": 5e-3}
WORDS = "sun moon tree river stone house garden winter summer bread water light".split()
LABELS = {"tone": {"file": "x.csv", "response": "r", "label": "l", "classes": [[0], [1]]}}


def labelled(count: int, prompt: str = "other") -> list[tuple[str, str, int]]:
    """Texts of class 1 hold the word `good`, those of class 0 `bad`."""
    draw = random.Random(0)
    texts = []
    for i in range(count):
        words = draw.choices(WORDS, k=draw.randint(3, 6))
        words.insert(draw.randrange(len(words)), "good" if i % 2 else "bad")
        texts.append((f"{prompt} {i // 2}", " ".join(words), i % 2))
    return texts


def pairs(count: int, prompt: str = "train") -> list[dict]:
    draw = random.Random(1)
    rows = []
    for i in range(count):
        for rank, word in enumerate(("good", "bad")):
            text = " ".join([word, *draw.choices(WORDS, k=draw.randint(2, 5))])
            rows.append(row(f"{prompt} {i}", text, rank))
    return rows


def classifier(**keys) -> dict:
    return {"kind": "classifier", "inputs": ["response"], "max_length": 24, "train": {"texts": "tone", **SMALL, **keys}}


def preference(**keys) -> dict:
    return {"kind": "preference", "max_length": 32, "train": {**SMALL, "folds": 2, **keys}}


def trained(tmp_path: Path, specs: dict, clean: Path, name: str = "models"):
    given = load(tmp_path, specs, clean={"labels": LABELS})
    metrics = training.train(given.rewards, clean, tmp_path / name, given.launch)
    return metrics, rewards.load(given.rewards, tmp_path / name, given.launch)


def test_a_fold_is_the_hash_of_the_prompt():
    digest = hashlib.blake2b(b"why?", digest_size=8).hexdigest()
    assert fold("why?", 5) == int(digest, 16) % 5
    counts = np.bincount([fold(f"prompt {i}", 5) for i in range(2000)])
    assert counts.min() > 330  # 400 expected


def test_a_classifier_of_other_texts_learns_and_is_measured_on_held_out_prompts(tmp_path):
    clean = write_clean(tmp_path / "clean")
    write_labels(clean, "tone", labelled(200))
    metrics, components = trained(tmp_path, {"good": classifier()}, clean)
    assert metrics["good"]["models"] == 1
    assert metrics["good"]["rows"] == 20  # both texts of a tenth of the 100 prompts
    assert metrics["good"]["accuracy"] > 0.9
    assert [path.name for path in (tmp_path / "models/good").iterdir()] == ["full"]
    scores = components.score(["p", "p"], ["a good house in winter", "a bad house in winter"], [{}, {}])["good"]
    assert scores[0] > 0.6 > 0.4 > scores[1]


def test_a_single_logit_is_trained_for_a_sigmoid(tmp_path):
    clean = write_clean(tmp_path / "clean")
    write_labels(clean, "tone", labelled(200))
    metrics, components = trained(tmp_path, {"good": {**classifier(), "output": "sigmoid"}}, clean)
    assert metrics["good"]["accuracy"] > 0.9
    assert components.score(["p"], ["good river"], [{}])["good"][0] > 0.9


def test_texts_that_share_prompts_are_scored_by_a_model_that_did_not_see_them(tmp_path):
    """Random labels cannot be learnt but by heart, so only the full model knows them."""
    draw = random.Random(5)
    texts = [(f"shared {i}", chr(ord("A") + i), draw.randrange(2)) for i in range(60)]
    clean = write_clean(tmp_path / "clean", train=[row(prompt, text) for prompt, text, _ in texts])
    write_labels(clean, "tone", texts)
    metrics, components = trained(tmp_path, {"good": classifier(folds=3, epochs=40)}, clean)
    assert metrics["good"]["models"] == 4
    assert metrics["good"]["rows"] == 60
    given = [t[0] for t in texts], [t[1] for t in texts], [{}] * 60
    labels = np.array([t[2] for t in texts])
    full = components.score(*given, origin="source")["good"]
    unseen = components.score(*given, origin="train")["good"]
    assert ((full > 0.5) == labels).mean() > 0.9
    assert ((unseen > 0.5) == labels).mean() == pytest.approx(metrics["good"]["accuracy"], abs=1e-9)
    assert np.abs(full - unseen).mean() > 0.1
    for i in (0, 1, 2):
        (tmp_path / "models/good" / f"fold{i}").rename(tmp_path / f"away{i}")
    assert components.score(*given, origin="train")["good"].tolist() == pytest.approx(full.tolist(), abs=1e-6)


def test_texts_of_validation_and_test_prompts_are_left_out(tmp_path):
    held = [row("other 0", "x")]
    clean = write_clean(tmp_path / "clean", validation=held, test=[row("other 1", "x")])
    write_labels(clean, "tone", labelled(40))
    given = load(tmp_path, {"good": classifier()}, clean={"labels": LABELS})
    [(_, options)] = fitted(given.rewards)
    found = gather(clean, options, "rewards.good")
    assert len(found.rows) == 36
    assert not {"other 0", "other 1"} & set(found.keys)
    write_labels(clean, "tone", labelled(4))
    with pytest.raises(InputError, match=r"tone\.parquet has no example"):
        gather(clean, options, "rewards.good")


def test_every_pair_of_a_prompt_is_an_example_the_better_first(tmp_path):
    rows = [row("p", text, rank) for rank, text in enumerate("abc")] + [row("q", "d")]
    clean = write_clean(tmp_path / "clean", train=rows)
    given = load(tmp_path, {"liked": preference()})
    [(_, options)] = fitted(given.rewards)
    found = gather(clean, options, "rewards.liked")
    responses = [tuple(found.rows[i][1] for i in members) for members in found.members]
    assert responses == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found.keys == ["p"] * 3


def test_a_preference_model_learns_pairs_and_reports_unseen_ones(tmp_path):
    clean = write_clean(tmp_path / "clean", train=pairs(100))
    metrics, components = trained(tmp_path, {"liked": preference()}, clean)
    assert metrics["liked"]["rows"] == 100
    assert metrics["liked"]["models"] == 3
    assert metrics["liked"]["accuracy"] > 0.9
    better, worse = components.score(["p", "p"], ["good stone", "bad stone"], [{}, {}])["liked"]
    assert better > worse
    assert sorted(path.name for path in (tmp_path / "models/liked").iterdir()) == ["fold0", "fold1", "full"]


def test_equal_seeds_give_equal_models(tmp_path):
    clean = write_clean(tmp_path / "clean", train=pairs(30))
    texts = ["p", "q"], ["good moon", "bad moon"], [{}, {}]
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(3)  # the state of the global generator must not matter
        _, components = trained(tmp_path, {"liked": preference(epochs=1, seed=seed, dropout=0.1)}, clean, name)
        found.append(components.score(*texts)["liked"].tolist())
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_training_may_start_from_a_checkpoint(tmp_path):
    clean = write_clean(tmp_path / "clean", train=pairs(60))
    write_labels(clean, "tone", labelled(100))
    specs = {"liked": preference(), "good": classifier()}
    trained(tmp_path, specs, clean)
    again = {
        "liked": preference(init=str(tmp_path / "models/liked/full"), epochs=1, lr=1e-5),
        "good": classifier(init=str(tmp_path / "models/good/full"), epochs=1, lr=1e-5),
    }
    metrics, components = trained(tmp_path, again, clean, "again")
    assert metrics["liked"]["accuracy"] > 0.9 and metrics["good"]["accuracy"] > 0.9
    assert components.score(["p"], ["good bread"], [{}])["good"][0] > 0.5


def test_the_loss_of_a_pair_is_bradley_terry():
    logits = torch.tensor([[1.0], [0.0], [0.0], [2.0]])  # better 1 and 0, worse 0 and 2
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2
    assert fitting.loss(logits, torch.zeros(2, dtype=torch.long), "pairs").item() == pytest.approx(expected, rel=1e-6)
    assert fitting.loss(torch.zeros(3, 4), torch.tensor([0, 1, 3]), "labels").item() == pytest.approx(
        math.log(4), rel=1e-6
    )
    assert fitting.loss(torch.zeros(2, 1), torch.tensor([0, 1]), "labels").item() == pytest.approx(
        math.log(2), rel=1e-6
    )


def test_the_held_out_share_is_of_prompts(tmp_path):
    clean = write_clean(tmp_path / "clean")
    write_labels(clean, "tone", labelled(60))
    given = load(tmp_path, {"good": classifier()}, clean={"labels": LABELS})
    [(_, options)] = fitted(given.rewards)
    found = gather(clean, options, "rewards.good")
    [(out, kept)] = divide(found, folds=5, holdout=0.2)
    keys = {found.keys[i] for i in out}
    assert len(keys) == 6
    assert len(out) == 12
    assert keys.isdisjoint(found.keys[i] for i in kept)
    assert sorted([*out, *kept]) == list(range(60))


def talk(group: str | None, prompts: list[str]) -> list[dict]:
    """A conversation's rows, each a prompt with two responses."""
    said = {} if group is None else {"group": group}
    return [row(prompt, text, i, **said) | {"prompt_id": f"{group} {prompt}"}
            for prompt in prompts for i, text in enumerate(("good", "bad"))]  # fmt: skip


# Two conversations begin alike; of five folds, theirs and that of the prompt they share are all different.
TALKS = talk("a", ["hi", "hi, you", "hi, you, well"]) + talk("d", ["hi", "hi, no"]) + talk("c", ["why?"])
TALKS += talk("b", ["so"]) + talk(None, ["hi", "then"])


def test_a_conversations_fold_is_that_of_its_group(tmp_path):
    given = load(tmp_path, {"liked": preference(folds=5)})
    [(_, options)] = fitted(given.rewards)
    assert key(options, "w", "hi", "", {"group": "a"}) == key(options, "w", "hi, you", "", {"group": "a"}) == "group a"
    assert key(options, "w", "hi", "", {"group": 7}) == "group 7"
    assert {key(options, "w", " hi ", "", context) for context in ({}, {"group": None}, {"group": ""})} == {"hi"}
    numbers = [fold(name, 5) for name in ("group a", "group d", "hi")]
    assert len(set(numbers)) == 3


def test_no_model_has_seen_the_conversation_or_the_prompt_of_the_rows_in_its_fold(tmp_path):
    clean = write_clean(tmp_path / "clean", train=TALKS)
    given = load(tmp_path, {"liked": preference(folds=5)})
    [(_, options)] = fitted(given.rewards)
    found = gather(clean, options, "rewards.liked")
    assert len(found.members) == 9
    prompts = [found.rows[first][0] for first, _ in found.members]
    groups = [found.rows[first][2].get("group") for first, _ in found.members]
    held = divide(found, 5, 0.1)
    assert sorted(i for out, _ in held for i in out) == list(range(9))  # each is measured once
    for number, (out, kept) in enumerate(held):
        rows = [r for r in TALKS if fold(key(options, "w", r["prompt"], "", r["context"]), 5) == number]
        assert {found.rows[row_][0] for i in out for row_ in found.members[i]} == {r["prompt"] for r in rows}
        assert {prompts[i] for i in kept}.isdisjoint(r["prompt"] for r in rows)
        assert {groups[i] for i in kept if groups[i]}.isdisjoint(r["context"].get("group") for r in rows)
    own = divide(found, 5, 0.1)[fold("group a", 5)]
    assert {prompts[i] for i in own.out} >= {"hi", "hi, you", "hi, you, well"}
    assert {groups[i] for i in own.kept} >= {"d"}  # but for its "hi"
    assert [prompts[i] for i in own.kept if groups[i] == "d"] == ["hi, no"]


def test_labelled_texts_without_conversations_are_held_out_by_the_prompts_of_theirs(tmp_path):
    clean = write_clean(tmp_path / "clean", train=TALKS)
    write_labels(clean, "tone", [("hi", "x", 0), ("hi, you", "y", 1), ("so", "z", 0), ("elsewhere", "u", 1)])
    given = load(tmp_path, {"good": classifier(folds=5)}, clean={"labels": LABELS})
    [(_, options)] = fitted(given.rewards)
    found = gather(clean, options, "rewards.good")
    assert found.shared
    assert found.keys == ["hi", "hi, you", "so", "elsewhere"]
    assert [set(names) for names in found.related] == [
        {"group a", "group d", "hi"}, {"group a", "hi, you"}, {"group b", "so"}, {"elsewhere"}
    ]  # fmt: skip
    held = divide(found, 5, 0.1)
    for i, names in enumerate(found.related):
        assert [number for number in range(5) if i not in held[number].kept] == sorted({fold(n, 5) for n in names})


def test_what_shares_a_conversation_or_a_prompt_with_validation_or_test_is_left_out(tmp_path):
    validation = [row("other", "x", group="a")]
    test = [row("why?", "x", group="e")]
    clean = write_clean(tmp_path / "clean", train=TALKS, validation=validation, test=test)
    given = load(tmp_path, {"liked": preference(folds=5)})
    [(_, options)] = fitted(given.rewards)
    found = gather(clean, options, "rewards.liked")
    assert {found.rows[i][2].get("group") for members in found.members for i in members} == {"b", "d", None}


def test_a_held_out_share_has_no_prompt_of_what_is_trained_on(tmp_path):
    """Labelled texts that name their conversations, none of them the training data's."""
    clean = write_clean(tmp_path / "clean")
    with schema.writing(clean / "labels/tone.parquet", schema.LABELLED) as writer:
        for i in range(20):
            group = f"g{i // 2}" if i > 1 else f"alone {i}"
            prompt = "same" if i < 2 else f"own {i}"
            writer.write([{"prompt": prompt, "response": "r", "context": {"group": group}, "label": i % 2}])
    given = load(tmp_path, {"good": classifier()}, clean={"labels": LABELS})
    [(_, options)] = fitted(given.rewards)
    found = gather(clean, options, "rewards.good")
    assert not found.shared
    for share in np.linspace(0.05, 0.95, 10):
        [(out, kept)] = divide(found, 5, share)
        for name in ({i: found.keys[i] for i in range(20)}, {i: found.rows[i][0] for i in range(20)}):
            assert {name[i] for i in out}.isdisjoint(name[i] for i in kept)


def test_a_row_is_scored_by_the_model_of_its_conversations_fold(tmp_path):
    clean = write_clean(tmp_path / "clean", train=TALKS)
    metrics, components = trained(tmp_path, {"liked": preference(folds=5, epochs=1)}, clean)
    assert metrics["liked"]["rows"] == 9
    rows = [r for r in TALKS if r["rank"] == 0]
    given = [r["prompt"] for r in rows], ["a text"] * 9, [r["context"] for r in rows]
    scores = components.score(*given, origin="train")["liked"]
    for i, one in enumerate(rows):
        group = one["context"].get("group")
        number = fold(one["prompt"] if group is None else f"group {group}", 5)
        spec = {**preference(), "train": None, "model": str(tmp_path / f"models/liked/fold{number}")}
        loaded = load(tmp_path / "alone", {"liked": spec})
        alone = rewards.load(loaded.rewards, tmp_path / "none", loaded.launch)
        assert scores[i] == pytest.approx(alone.score(*([x[i]] for x in given))["liked"][0], abs=1e-6)


def test_every_batch_order_covers_every_example():
    lengths = np.arange(1, 101) % 17
    batches = list(fitting._batches(lengths, 8, 2, seed=0))
    assert len(batches) == 2 * math.ceil(100 / 8)
    assert sorted(np.concatenate(batches).tolist()) == sorted([*range(100), *range(100)])


def test_the_stages_train_and_annotate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load(tmp_path, {"liked": preference(), "words": {"kind": "tfidf"}})
    write_clean(tmp_path / "data/clean/mine", train=pairs(40))
    for stage in (reward_model, annotate):
        assert CliRunner().invoke(stage.main, ["--task", "mine"], catch_exceptions=False).exit_code == 0
    metrics = json.loads(Path("metrics/reward_model.json").read_text())
    assert set(metrics) == {"liked"}
    assert {"accuracy", "rows", "models"} < set(metrics["liked"])
    found = schema.rows(Path("data/annotated/mine/train.parquet"))
    assert all(0 < r["reward_liked"] < 1 for r in found)
    better = [a["reward_liked"] > b["reward_liked"] for a, b in zip(found[::2], found[1::2], strict=True)]
    assert np.mean(better) == pytest.approx(metrics["liked"]["accuracy"])  # each scored as it was measured: unseen
    assert not list(Path("models").rglob("*.bin"))
    assert not list(Path("models").rglob("*.pkl"))
