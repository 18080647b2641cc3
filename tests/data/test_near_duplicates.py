"""Near-duplicates across splits: the Jaccard index by hand, who is left out, and what is said."""

from __future__ import annotations

import logging

import pytest

from alol.config.sections import NearDuplicates
from alol.data import schema
from alol.data.near_duplicates import HeldOut, ngrams
from stages import clean
from tests.raw_project import project, run, write_lines


def test_similarity_is_shared_ngrams_over_all_ngrams():
    """Of the bigrams ab bc cd and ab bc ce, two of four are shared; case and punctuation are none of a word."""
    held = HeldOut(words=2)
    held.add("test-1", "aa bb cc dd")
    held.add("test-2", "xx yy")
    assert held.likest("Aa, bb cc! ee") == (0.5, "test-1")
    assert held.likest("aa bb cc dd") == (1.0, "test-1")
    assert held.likest("yy xx") == (0.0, "")
    assert len(ngrams("aa bb cc dd", 2)) == 3


def test_a_text_shorter_than_an_ngram_is_one():
    held = HeldOut(words=5)
    held.add("test-1", "Hi there")
    assert held.likest("hi THERE!") == (1.0, "test-1")
    assert held.likest("hi there you") == (0.0, "")


def test_all_responses_of_a_prompt_go_with_it(caplog):
    caplog.set_level(logging.INFO)
    held = HeldOut(words=1)
    held.add("test-1", "aa bb cc dd")
    rows = [
        {"prompt_id": name, "prompt": prompt, "rank": rank}
        for name, prompt in (("t-1", "aa bb cc dd ee"), ("t-2", "aa bb xx yy"))
        for rank in (0, 1)
    ]
    kept = list(held.without(rows, "train", NearDuplicates(similarity=0.8, words=1)))
    assert kept == rows[2:]
    assert "train: 1 of 2 prompts left out" in caplog.text
    assert "t-1 is like test-1 (0.80)" in caplog.text


ROME, ROMA, BRIDGE, TOWER = (
    "what is the age of Rome",
    "what is the age of Roma",
    "who built it",
    "how tall is the tower",
)


@pytest.mark.parametrize(
    ("similarity", "train", "validation"),
    [
        (None, [ROME, ROMA, BRIDGE], [ROME, TOWER]),
        (1.0, [ROMA, BRIDGE, "why"], [TOWER]),
        (4 / 6, [BRIDGE, "why"], [TOWER]),  # Roma shares four bigrams with Rome, and each has one of its own
    ],
)
def test_clean_leaves_them_out_of_train_and_validation(tmp_path, monkeypatch, similarity, train, validation):
    """The limit counts what is left; a test prompt always stays."""
    monkeypatch.chdir(tmp_path)
    given = {"train": [ROME, ROMA, BRIDGE, "why"], "validation": [ROME, TOWER], "test": ["What is the age of Rome?"]}
    options = {"prompt": "q", "response": "a", **{split: f"d/{split}.jsonl" for split in given}}
    near = {"similarity": similarity, "words": 2}
    project(tmp_path, {}, {"format": "table", "limit": 3, "near_duplicates": near, "options": options})
    for split, prompts in given.items():
        write_lines(tmp_path / f"data/raw/mine/d/{split}.jsonl", [{"q": text, "a": "so"} for text in prompts])
    result = run(clean.main)
    assert result.exit_code == 0, result.output
    found = {split: schema.rows(tmp_path / f"data/clean/mine/{split}.parquet", ["prompt"]) for split in given}
    assert {split: [row["prompt"] for row in rows] for split, rows in found.items()} == {
        "train": train,
        "validation": validation,
        "test": given["test"],
    }
