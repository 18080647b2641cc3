"""The reward models of the published tasks: their templates, their checkpoints' layout, and where they are pooled."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, RobertaConfig, RobertaForSequenceClassification

from alol import rewards
from alol.base.errors import InputError
from alol.checks import reward_parameters
from alol.rewards import critic, training, untrained
from alol.rewards.classifier import ClassifierReward
from alol.rewards.folds import fold
from alol.rewards.options import parse
from alol.rewards.toxichat import OffensiveModel
from tests.reward_project import load, row, write_clean
from tests.rewards.test_rewards_networks import SIZES, TEXTS, gpt2, options, scores, strong
from tests.rewards.test_rewards_networks import training as small_training

END = "<|endoftext|>"
DIALOGRPT = {"kind": "classifier", "model": "microsoft/DialogRPT-depth", "output": "sigmoid"}


def component(tmp_path: Path, **keys) -> critic.Critic:
    given = load(tmp_path, {"it": {"kind": "critic", "model": "none", **keys}})
    return parse(given.rewards["it"], "rewards.it")


def roberta(folder: Path, labels: int, tokens: int = 60) -> Path:
    """As the published RoBERTa classifiers: no token types, positions counted from the pad id on."""
    tokenizer = untrained.classifier_tokenizer(TEXTS, small_training(), 40)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    torch.manual_seed(3)
    config = RobertaConfig(
        **SIZES, vocab_size=len(tokenizer), max_position_embeddings=tokens, pad_token_id=0, type_vocab_size=1,
        num_labels=labels,
    )  # fmt: skip
    strong(RobertaForSequenceClassification(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --- plausibility of triples


def test_a_triple_becomes_two_sentences_with_first_names(tmp_path):
    built = component(tmp_path)
    context = {"head": " PersonX helps PersonY ", "relation": "xNeed"}
    first, second = critic.persons(built, "PersonX helps PersonY", 0).values()
    assert first != second
    assert {first, second} <= set(critic.NAMES)
    head, tail = critic.sentences(built, "w", "to know PersonY", context)
    assert head == f"{first} helps {second}"
    assert tail == f"but before, {first} needed to know {second}"


def test_every_relation_has_the_published_words(tmp_path):
    built = component(tmp_path, names={"placeholders": []})
    said = {
        relation: critic.sentences(built, "w", "T.", {"head": "H", "relation": relation})[1]
        for relation in built.relations
    }
    assert said == {
        "HinderedBy": "can be hindered by T.",
        "xNeed": "but before, PersonX needed T.",
        "xWant": "as a result, PersonX wants T.",
        "xIntent": "because PersonX wanted T.",
        "xReact": "as a result, PersonX feels T.",
        "xAttr": "so, PersonX is seen as T.",
        "xEffect": "as a result, PersonX T.",
    }


def test_names_depend_on_head_seed_and_draw_alone(tmp_path):
    built, other = component(tmp_path), component(tmp_path, names={"seed": 2})
    heads = [f"PersonX does {i}" for i in range(20)]
    assert [critic.persons(built, head, 0) for head in heads] == [critic.persons(built, head, 0) for head in heads]
    assert [critic.persons(built, head, 0) for head in heads] != [critic.persons(other, head, 0) for head in heads]
    assert [critic.persons(built, head, 0) for head in heads] != [critic.persons(built, head, 1) for head in heads]


def test_broken_characters_are_repaired(tmp_path):
    built = component(tmp_path, names={"placeholders": []})
    context = {"head": "PersonX visits a cafÃ©", "relation": "xWant"}
    assert critic.sentences(built, "w", "tea", context)[0] == "PersonX visits a café"


def test_an_unknown_relation_is_named(tmp_path):
    with pytest.raises(InputError, match=r"unknown relation in w\.relations: 'isA'; known: HinderedBy"):
        critic.sentences(component(tmp_path), "w", "T", {"head": "H", "relation": "isA"})


def test_a_critic_scores_its_sentences_and_averages_over_draws(tmp_path):
    folder = roberta(tmp_path / "roberta", 1)
    spec = {"kind": "critic", "model": str(folder)}
    contexts = [{"head": "PersonX likes PersonY", "relation": name} for name in ("xNeed", "xEffect", "xAttr")]
    found = scores(tmp_path, spec, ["p"] * 3, TEXTS[:3], contexts)
    parts = []
    for draw in range(2):
        names = critic.persons(component(tmp_path), "PersonX likes PersonY", draw)
        drawn = [
            critic.sentences(component(tmp_path), "w", t, {**c, "draw": draw})
            for t, c in zip(TEXTS, contexts, strict=False)
        ]
        assert all(names["PersonX"] in head for head, _ in drawn)
        plain = {"kind": "classifier", "model": str(folder), "output": "sigmoid", "max_length": 128}
        parts.append(scores(tmp_path, plain, *zip(*drawn, strict=True)))
    assert found == pytest.approx(parts[0], abs=1e-6)
    assert scores(tmp_path, {**spec, "names": {"draws": 2}}, ["p"] * 3, TEXTS[:3], contexts) == pytest.approx(
        (parts[0] + parts[1]) / 2, abs=1e-6
    )


def test_a_critic_is_trained_by_folds_of_heads_and_knows_its_relations_alone(tmp_path, caplog):
    caplog.set_level("INFO")
    clean = write_clean(
        tmp_path / "clean",
        train=[row(f"p{i}", "good", head=f"head {i}", relation="xNeed") for i in range(20)],
        validation=[row("v", "good", head="head of validation", relation="xNeed")],
        test=[row("t", "good", head="head of test", relation="xNeed")],
    )
    from alol.data import schema

    texts = [(f"head {i // 2}", "xNeed", "good" if i % 2 else "bad", i % 2) for i in range(40)]
    texts += [("head of test", "xNeed", "good", 1), ("head 1", "oWant", "good", 1)]
    with schema.writing(clean / "labels/human.parquet", schema.LABELLED) as writer:
        writer.write(
            {"prompt": "", "response": tail, "context": {"head": head, "relation": relation}, "label": label}
            for head, relation, tail, label in texts
        )
    sizes = {"layers": 1, "width": 32, "heads": 2, "vocabulary": 320, "epochs": 10, "folds": 3, "lr": 5e-3}
    specs = {"it": {"kind": "critic", "max_length": 32, "train": {"texts": "human", **sizes}}}
    labels = {"human": {"file": "x.csv", "response": "r", "label": "l", "classes": [[0], [1]]}}
    given = load(tmp_path, specs, clean={"labels": labels})
    assert reward_parameters.check(given) == []
    measured = training.train(given.rewards, clean, tmp_path / "models", given.launch)["it"]
    assert measured["models"] == 4
    assert measured["rows"] == 40
    assert "1 labelled texts left out, for validation and test have their prompts" in caplog.text
    assert "1 labelled texts left out, whose relation has no words (oWant 1)" in caplog.text
    components = rewards.load(given.rewards, tmp_path / "models", given.launch)
    contexts = [{"head": "head 1", "relation": "xNeed"}]
    full, unseen = (components.score(["p"], ["good"], contexts, origin)["it"] for origin in ("source", "train"))
    number = fold("head 1", 3)
    alone = rewards.load(
        {"it": {**given.rewards["it"], "train": None, "model": str(tmp_path / f"models/it/fold{number}")}},
        tmp_path / "none", given.launch,
    )  # fmt: skip
    assert unseen == pytest.approx(alone.score(["p"], ["good"], contexts)["it"], abs=1e-7)
    assert abs(full[0] - unseen[0]) > 1e-6


# --- ToxiChat's classifier


def offensive(folder: Path) -> Path:
    """A checkpoint as it is published: a language model's weights with its head, and `off_classifier`."""
    marks = options.Preference(
        "preference", None, None, None, "text", "[H]", "[A]", "logit", 64, "fp32", 64, 8192, None, None, None
    )
    tokenizer = untrained.preference_tokenizer(TEXTS, small_training(), marks)
    torch.manual_seed(4)
    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, n_positions=32, vocab_size=len(tokenizer))
    model = strong(OffensiveModel(config))
    weights = {**model.state_dict(), "lm_head.weight": model.transformer.wte.weight.clone()}
    model.config.architectures = ["GPT2ForOffensiveClassification"]
    folder.mkdir()
    model.config.save_pretrained(folder)
    torch.save(weights, folder / "pytorch_model.bin")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("prompt", ["what do you think?", f"what do you think?{END}"])
def test_safety_is_read_at_the_last_end_of_text(tmp_path, prompt):
    folder = offensive(tmp_path / "toxichat")
    model = OffensiveModel.from_pretrained(folder).eval()
    tokenizer = untrained.PreTrainedTokenizerFast.from_pretrained(folder)
    ids = tokenizer(f"what do you think?{END}I do not know{END}", return_tensors="pt")["input_ids"]
    assert ids[0].tolist().count(tokenizer.eos_token_id) == 2
    with torch.no_grad():
        direct = model.off_classifier(model.transformer(ids).last_hidden_state)[0, -1].softmax(-1)
    spec = {"kind": "toxichat", "model": str(folder)}
    contexts = [{"prompt_marks": [18, len(prompt)]}, {}]  # the format's own separator, where there is one
    texts = [prompt, "why?"], ["I do not know", "another one about dogs and cats"]
    found = scores(tmp_path, spec, *texts, contexts)
    assert found[0] == pytest.approx(float(direct[0]), abs=1e-6)
    assert scores(tmp_path, {**spec, "label": 1}, *texts, contexts)[0] == pytest.approx(float(direct[1]), abs=1e-6)


def test_long_empty_and_marked_texts_are_scored(tmp_path):
    spec = {"kind": "toxichat", "model": str(offensive(tmp_path / "toxichat"))}
    long = "cats and dogs " * 300
    found = scores(tmp_path, spec, [long, "", "why?", long], ["no", "", f"a{END}b{END}c", long])
    assert np.isfinite(found).all()
    assert ((found > 0) & (found < 1)).all()
    longer = scores(tmp_path, spec, ["dogs " + long, "birds " + long], ["no", "no"])
    assert longer[0] == pytest.approx(longer[1], abs=1e-6)  # both have lost their start


def test_a_checkpoint_without_its_classifier_is_refused(tmp_path):
    folder = offensive(tmp_path / "toxichat")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({k: v for k, v in weights.items() if "off_classifier" not in k}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"it lacks the weights off_classifier\.bias"):
        scores(tmp_path, {"kind": "toxichat", "model": str(folder)})


# --- classifiers of pairs and of dialogues


def test_faithfulness_reads_the_knowledge_and_the_response(tmp_path):
    folder = roberta(tmp_path / "roberta", 2)
    spec = {"kind": "classifier", "model": str(folder), "label": 0, "inputs": ["context.knowledge", "response"]}
    contexts = [{"knowledge": text} for text in TEXTS[:3]]
    found = scores(tmp_path, spec, ["unused"] * 3, TEXTS[1:4], contexts)
    pairs = scores(tmp_path, {**spec, "inputs": ["prompt", "response"]}, TEXTS[:3], TEXTS[1:4])
    assert found == pytest.approx(pairs, abs=1e-7)
    assert len({round(value, 4) for value in found.tolist()}) == 3


def test_dialogrpt_is_pooled_at_the_last_attended_token_under_both_paddings(tmp_path):
    """Padding, separator and end of text are one token, which also stands inside and at the end of the texts."""
    folder = gpt2(tmp_path / "dialogrpt")
    built = parse(load(tmp_path, {"it": {**DIALOGRPT, "model": str(folder)}}).rewards["it"], "rewards.it")
    network = ClassifierReward("rewards.it", built, tmp_path, load(tmp_path, {"it": DIALOGRPT}).launch)._network
    prompts, responses = [f"why?{END}", f"what do you think?{END}"], ["cats and dogs", f"I do not know{END}"]
    ids = [torch.tensor(one.ids, dtype=torch.long) for one in network.encode(prompts, responses, [{}, {}])]
    width, end = max(map(len, ids)) + 3, network.tokenizer.eos_token_id
    logits = network.padded_logits
    alone = [logits({"input_ids": one[None], "attention_mask": torch.ones_like(one[None])}) for one in ids]
    for left in (False, True):
        tokens, mask = torch.full((2, width), end), torch.zeros(2, width, dtype=torch.long)
        for i, one in enumerate(ids):
            place = slice(width - len(one), width) if left else slice(0, len(one))
            tokens[i, place], mask[i, place] = one, 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        found = logits({"input_ids": tokens, "attention_mask": mask, "position_ids": positions})[:, 0]
        assert found.tolist() == pytest.approx([float(one) for one in alone], rel=1e-4, abs=1e-5)
    assert abs(float(alone[0]) - float(alone[1])) > 1e-3


def test_no_roberta_meets_a_text_that_is_too_long(tmp_path):
    spec = {"kind": "classifier", "model": str(roberta(tmp_path / "roberta", 2, 20)), "max_length": 512}
    assert np.isfinite(scores(tmp_path, spec, ["cats " * 900, ""], ["dogs " * 900, ""])).all()


def test_tf_idf_is_fitted_to_the_texts_it_names(tmp_path):
    clean = write_clean(tmp_path / "clean", train=[row("p", "one two")])
    write_clean(clean / "texts", train=[row("q", "three four"), row("r", "three")])
    (clean / "texts/train.parquet").rename(clean / "texts/wow.parquet")
    given = load(tmp_path, {"it": {"kind": "tfidf", "texts": "wow"}})
    training.train(given.rewards, clean, tmp_path / "models", given.launch)
    other = load(tmp_path, {"it": {"kind": "tfidf", "texts": "wov"}})
    with pytest.raises(
        InputError, match=r"unknown text table at rewards\.it\.texts: 'wov'; known: test, validation, wow"
    ):
        training.train(other.rewards, clean, tmp_path / "models", given.launch)
    idf = json.loads((tmp_path / "models/it/tfidf.json").read_text())
    assert idf == {"three": 1.0, "four": pytest.approx(np.log(3 / 2) + 1)}


@pytest.mark.network
@pytest.mark.skipif(not os.environ.get("ALOL_NETWORK"), reason="set ALOL_NETWORK=1 to fetch published models")
@pytest.mark.parametrize(
    ("name", "prompt", "response", "published"),
    [
        ("depth", "I love NLP!", "Can anyone recommend a nice review paper?", 0.724),
        ("depth", "I love NLP!", "Me too!", 0.032),
        ("updown", "I love NLP!", "Here's a free textbook (URL) in case anyone needs it.", 0.613),
        ("updown", "I love NLP!", "Me too!", 0.111),
    ],
)
def test_the_published_dialogrpt_gives_its_cards_scores(tmp_path, name, prompt, response, published):
    spec = {"kind": "classifier", "model": f"microsoft/DialogRPT-{name}", "revision": "main", "output": "sigmoid"}
    found = scores(tmp_path, spec, [f"{prompt}{END}"], [response])
    assert found[0] == pytest.approx(published, abs=0.001)  # the cards give three digits
