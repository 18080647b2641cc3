"""Knowledge-grounded dialogue: prompts to the byte, what an example is, and how much of an answer is copied."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import pytest

from alol.base.errors import InputError
from alol.data.formats import knowledge
from alol.data.formats.extractive_fragments import coverage, density, fragments

NONE = {"wow": None, "faithdial": None}
WOW, FAITHDIAL = {**NONE, "wow": "wow/train.json"}, {**NONE, "faithdial": "faithdial/train.json"}
OPTIONS = {
    "train": WOW,
    "validation": WOW,
    "test": FAITHDIAL,
    "texts": {},
    "unchecked": "keep",
    "shuffle": 901,
    "separator": "<|endoftext|>",
    "max_history": None,
    "tokenizer": None,
    "tokenizer_revision": None,
}


def wizard(text: str, sentence: str | None) -> dict:
    checked = {} if sentence is None else {"chosen_topic_0": sentence}
    return {"speaker": "0_Wizard", "text": text, "checked_sentence": checked}


def apprentice(text: str) -> dict:
    return {"speaker": "1_Apprentice", "text": text}


DIALOGUES = [
    {
        "chosen_topic": "Bread",
        "dialog": [
            wizard("I bake.", "Bread is baked."),
            apprentice(" Do you? "),
            wizard("Hm.", None),
            apprentice("Tell me more."),
            wizard(" It rises.\n", "Yeast makes bread rise."),
            apprentice("Bye"),
            wizard("Bye.", "no_passages_used"),
        ],
    },
    {"chosen_topic": "Cats", "dialog": [apprentice("Cats?"), wizard("They purr.", "Cats purr.")]},
]
FAITHFUL = [
    {
        "dialog_idx": 7,
        "utterances": [
            {
                "speaker": "Wizard",
                "knowledge": "Cats purr.",
                "history": ["Cats?"],
                "response": "They purr.",
                "BEGIN": [],
            },
            {"speaker": "Apprentice", "history": ["Cats?", "They purr."], "response": "Why?"},
            {"knowledge": "Nobody knows.", "history": ["Cats?", "They purr.", "Why? "], "response": "Nobody knows!"},
        ],
    }
]


def write(raw: Path, dialogues: list = DIALOGUES, faithful: list = FAITHFUL) -> None:
    for name, content in (("wow", dialogues), ("faithdial", faithful)):
        (raw / name).mkdir(exist_ok=True)
        (raw / name / "train.json").write_text(json.dumps(content), encoding="utf-8")


def read(raw: Path, **changes) -> dict[str, list]:
    values = {**OPTIONS, **changes}
    for key in ("train", "validation", "test"):
        values[key] = knowledge.Sources(**values[key])
    values["texts"] = {name: knowledge.Sources(**sources) for name, sources in values["texts"].items()}
    return {split: list(rows) for split, rows in knowledge.read(raw, knowledge.Options(**values)).items()}


def test_three_examples_become_the_expected_rows(tmp_path):
    write(tmp_path)
    splits = read(tmp_path)
    end = "<|endoftext|>"
    head = f"Knowledge: Yeast makes bread rise.{end}"
    history = f"I bake.{end}Do you?{end}Hm.{end}Tell me more.{end}"
    rises = {
        "prompt_id": "wow-0-4",
        "subset": "wow",
        "prompt": head + history,
        "cuts": [47, 67, 87, 103],
        "marks": [34, 47, 54, 67, 74, 87, 90, 103, 116, 129],
        "turns": [
            {"role": "assistant", "text": "I bake."},
            {"role": "human", "text": "Do you?"},
            {"role": "assistant", "text": "Hm."},
            {"role": "human", "text": "Tell me more."},
        ],
        "context": {"knowledge": "Yeast makes bread rise.", "history": history},
        "rank": 0,
        "response": "It rises.",
    }
    purrs = {
        "prompt_id": "wow-1-1",
        "subset": "wow",
        "prompt": f"Knowledge: Cats purr.{end}Cats?{end}",
        "cuts": [34],
        "marks": [21, 34, 39, 52],
        "turns": [{"role": "human", "text": "Cats?"}],
        "context": {"knowledge": "Cats purr.", "history": f"Cats?{end}"},
        "rank": 0,
        "response": "They purr.",
    }
    assert splits["train"] == splits["validation"] == [rises, purrs]
    nobody = f"Cats?{end}They purr.{end}Why?{end}"
    assert splits["test"] == [
        {**purrs, "prompt_id": "faithdial-0-0", "subset": "faithdial"},
        {
            "prompt_id": "faithdial-0-2",
            "subset": "faithdial",
            "prompt": f"Knowledge: Nobody knows.{end}{nobody}",
            "cuts": [37, 55, 78],
            "marks": [24, 37, 42, 55, 65, 78, 82, 95],
            "turns": [
                {"role": "human", "text": "Cats?"},
                {"role": "assistant", "text": "They purr."},
                {"role": "human", "text": "Why?"},
            ],
            "context": {"knowledge": "Nobody knows.", "history": nobody},
            "rank": 0,
            "response": "Nobody knows!",
        },
    ]


def test_a_prompt_can_be_cut_without_its_knowledge_being_lost(tmp_path):
    write(tmp_path)
    row = read(tmp_path)["train"][0]
    shortened = row["prompt"][: row["cuts"][0]] + row["prompt"][row["cuts"][3] :]
    assert shortened == "Knowledge: Yeast makes bread rise.<|endoftext|>Tell me more.<|endoftext|>"


def test_answers_without_knowledge_stay_in_the_history_or_not(tmp_path):
    write(tmp_path)
    dropped = read(tmp_path, unchecked="drop")["train"][0]
    assert dropped["context"]["history"] == "I bake.<|endoftext|>Do you?<|endoftext|>Tell me more.<|endoftext|>"


def test_the_hubs_flat_rows_are_read_as_well(tmp_path):
    flat = [row | {"dialog_idx": 0} for row in FAITHFUL[0]["utterances"] if "knowledge" in row]
    write(tmp_path, faithful=flat)
    rows = read(tmp_path)["test"]
    assert [row["prompt_id"] for row in rows] == ["faithdial-0", "faithdial-1"]
    assert [row["response"] for row in rows] == ["They purr.", "Nobody knows!"]


def test_two_collections_are_mixed_by_the_seed_and_keep_their_ids_apart(tmp_path):
    write(tmp_path, DIALOGUES * 4, FAITHFUL * 4)
    both = {"wow": "wow/train.json", "faithdial": "faithdial/train.json"}
    ordered = read(tmp_path, train=both, shuffle=None)["train"]
    mixed = read(tmp_path, train=both)["train"]
    expected = list(ordered)
    random.Random(901).shuffle(expected)
    assert mixed == expected != ordered
    assert len({row["prompt_id"] for row in mixed}) == len(mixed) == 16


def test_further_texts_are_given_beside_the_splits(tmp_path):
    write(tmp_path)
    splits = read(tmp_path, train=FAITHDIAL, texts={"wow": WOW})
    assert [row["response"] for row in splits["wow"]] == ["It rises.", "They purr."]


def test_a_long_history_loses_its_oldest_utterances(tmp_path, monkeypatch):
    from alol.data.formats import token_counts

    monkeypatch.setattr(token_counts, "tokenizer", lambda name, revision: lambda texts: [len(t.split()) for t in texts])
    write(tmp_path)
    # words 2, 2, 1, 3 with three separators between them are 11 tokens
    found = {
        limit: read(tmp_path, max_history=limit, tokenizer="any")["train"][0]["context"]["history"].count("<")
        for limit in (11, 10, 8, 7, 5, 4, 1)
    }
    assert found == {11: 4, 10: 3, 8: 3, 7: 2, 5: 2, 4: 1, 1: 1}
    with pytest.raises(InputError, match="max_history needs"):
        knowledge.FORMAT.check(knowledge.Options(**{**OPTIONS, "max_history": 3}))
    for name in ("train", "../up", "a b"):
        with pytest.raises(InputError, match=r"clean\.options\.texts is wrong: the name"):
            knowledge.FORMAT.check(knowledge.Options(**{**OPTIONS, "texts": {name: WOW}}))


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"speaker": "0_Wizard", "text": "So."}, r"item 1, turn 2: 'checked_sentence' is missing"),
        (wizard("", "Fact."), r"item 1, turn 2: 'text' is '', but must be a text"),
        (wizard("So.", " "), r"item 1, turn 2: the sentence in 'checked_sentence' is ' ', not a text"),
        ({"text": "So."}, r"item 1, turn 2: 'speaker' is missing"),
    ],
)
def test_a_bad_turn_is_one_line(tmp_path, turn, message):
    write(tmp_path, [{"dialog": [apprentice("Hi"), turn]}])
    with pytest.raises(InputError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"knowledge": None}, "utterance 1: 'knowledge' is None, but must be a text"),
        ({"history": []}, "utterance 1: 'history' must be a list of utterances, at least one"),
        ({"response": " "}, "utterance 1: 'response' is ' ', but must be a text"),
    ],
)
def test_a_bad_utterance_is_one_line(tmp_path, change, message):
    write(tmp_path, faithful=[{"utterances": [{**FAITHFUL[0]["utterances"][0], **change}]}])
    with pytest.raises(InputError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("source", "response", "strict", "legacy"),
    [
        ("the cat sat on the mat", "the cat sat on a mat", [4, 1], [4]),
        ("a b c a b d", "a b d c a b c", [3, 3, 1], [3, 3]),
        ("a b c d", "a b x c d", [2, 2], [2, 2]),
        ("Cats purr", "cats sleep", [], []),
        ("a b", "", [], []),
    ],
)
def test_fragments_by_hand(source, response, strict, legacy):
    words = source.split(), response.split()
    assert fragments(*words, False) == strict
    assert fragments(*words, True) == legacy


def test_coverage_and_density_by_hand():
    source, response = "the cat sat on the mat".split(), "the cat sat on a mat".split()
    assert coverage(source, response, False) == pytest.approx(5 / 6)
    assert density(source, response, False) == pytest.approx(17 / 6)
    assert coverage(source, response, True) == pytest.approx(4 / 6)
    assert density(source, response, True) == pytest.approx(16 / 6)
    assert coverage(source, [], False) == density(source, [], True) == 0.0
    metrics = knowledge.FORMAT.metrics
    rows = (["p"], ["the cat sat on a mat"], [{"knowledge": "the cat sat on the mat"}])
    assert [metrics[name](*rows)[0] for name in metrics] == pytest.approx([5 / 6, 17 / 6, 4 / 6, 16 / 6])


@pytest.mark.skipif("ALOL_DATA" not in os.environ, reason="ALOL_DATA does not name a folder of real data")
def test_dialogues_in_the_complete_original_form_are_read(tmp_path):
    source = Path(os.environ["ALOL_DATA"]) / "wow/dialogstudio_wow/original_examples.json.gz"
    (tmp_path / "wow").mkdir()
    (tmp_path / "wow/all.json.gz").write_bytes(source.read_bytes())
    files = {**NONE, "wow": "wow/all.json.gz"}
    rows = read(tmp_path, train=files, validation=files, test=files)["train"]
    dialogues = json.loads(gzip.decompress(source.read_bytes()))
    wizards = [turn for one in dialogues for turn in one["dialog"][1:] if "Wizard" in turn["speaker"]]
    grounded = [
        next(iter(turn["checked_sentence"].values()))
        for turn in wizards
        if turn["checked_sentence"] and "no_passages_used" not in turn["checked_sentence"]
    ]
    assert [row["context"]["knowledge"] for row in rows] == [sentence.strip() for sentence in grounded]
    assert len(rows) > 10
    assert all(row["prompt"].startswith(f"Knowledge: {row['context']['knowledge']}<|endoftext|>") for row in rows)
