"""Reddit comments: the published pipeline's order of draws and filters, to the row, and one line for bad input."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pandas as pd
import pytest

from alol.base.errors import InputError
from alol.data.formats import reddit, token_counts

COLUMNS = (
    "id parent_id subreddit_id link_id text score ups author controversiality parent_link_id parent_text parent_score "
    "parent_ups parent_author parent_controversiality"
).split()
OPTIONS = {
    "positive": "positive/up.csv",
    "negative": "negative/down.csv",
    "train": "positive",
    "sample": 102000,
    "seed": 901,
    "max_words": 100,
    "max_tokens": None,
    "tokenizer": None,
    "tokenizer_revision": None,
    "test": 1,
    "validation": 1,
    "separator": "<|endoftext|>",
}


def comment(name: str, parent: str, text: str, score: int = 70, parent_score: int = 100) -> dict:
    row = dict.fromkeys(COLUMNS, "x")
    return row | {"id": name, "parent_text": parent, "text": text, "score": score, "parent_score": parent_score}


def plain(count: int, score: int) -> list[dict]:
    return [comment(f"c{score}_{i}", f"parent {i}", f"text {i}", score + i) for i in range(count)]


def write(raw: Path, positive: list[dict], negative: list[dict]) -> None:
    for name, rows in (("positive/up.csv", positive), ("negative/down.csv", negative)):
        (raw / name).parent.mkdir(exist_ok=True)
        with (raw / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def read(raw: Path, **changes) -> dict[str, list]:
    return {split: list(rows) for split, rows in reddit.read(raw, reddit.Options(**{**OPTIONS, **changes})).items()}


def test_raw_rows_become_the_expected_rows(tmp_path):
    rows = [
        comment("a1", "Look  at\nthis: https://x.org/a?b=c, now", 'He said "no",\n\n twice', 66, -3),
        comment("a2", "NA", "the parent is missing"),
        comment("a3", "a parent", ""),
        comment("a4", "word " * 101, "too long a parent"),
        comment("a5", "word " * 100, "word " * 100),
        comment("a6", "a parent", "word " * 101),
        comment("a7", "a parent", "http://only.url"),
        comment("a8", "a parent", " \n "),
    ]
    write(tmp_path, rows, plain(3, -9))
    splits = read(tmp_path)
    found = {row["prompt_id"]: row for part in ("test", "validation", "train") for row in splits[part]}
    assert {name for name in found if name.startswith("positive")} == {"positive-a1", "positive-a5", "positive-a7"}
    assert found["positive-a1"] == {
        "prompt_id": "positive-a1",
        "subset": "positive",
        "prompt": "Look at this: <URL> now<|endoftext|>",
        "cuts": [0],
        "marks": [23, 36],
        "turns": [{"role": "human", "text": "Look at this: <URL> now"}],
        "context": {"score": 66, "parent_score": -3},
        "rank": 0,
        "response": 'He said "no", twice',
    }
    assert found["positive-a5"]["prompt"] == " ".join(["word"] * 100) + "<|endoftext|>"
    assert found["positive-a7"]["response"] == "<URL>"


@pytest.mark.parametrize("sample", [7, 20, 102000])
def test_rows_are_drawn_as_pandas_draws_them(tmp_path, sample):
    positive = plain(30, 66)
    positive[4]["text"] = "NaN"
    write(tmp_path, positive, plain(30, -50))
    frame = pd.DataFrame([row for row in positive if row["text"] != "NaN"])
    drawn = frame.sample(min(sample, 29), random_state=901)
    splits = read(tmp_path, sample=sample)
    found = [row["prompt_id"] for part in ("test", "validation", "train") for row in splits[part][:1]]
    assert found == [f"positive-{name}" for name in drawn["id"][:3]]
    assert [row["prompt_id"] for row in splits["train"]] == [f"positive-{name}" for name in drawn["id"][2:]]


def test_validation_and_test_are_shared_and_training_is_of_one_file(tmp_path):
    write(tmp_path, plain(10, 66), plain(12, -50))
    up, down = read(tmp_path, test=2, validation=3), read(tmp_path, test=2, validation=3, train="negative")
    assert up["test"] == down["test"]
    assert up["validation"] == down["validation"]
    assert [row["subset"] for row in up["validation"]] == ["positive"] * 3 + ["negative"] * 3
    assert [len(part["train"]) for part in (up, down)] == [5, 7]
    assert up["both"] == down["both"] == up["train"] + down["train"]
    names = [row["prompt_id"] for part in ("train", "validation", "test") for row in up[part]]
    assert len(set(names)) == len(names) == 15


def test_comments_with_one_id_are_told_apart(tmp_path):
    write(tmp_path, [comment("same", "p", f"text {i}") for i in range(4)], plain(4, -9))
    splits = read(tmp_path)
    names = {row["prompt_id"] for part in ("train", "validation", "test") for row in splits[part][:1]}
    assert {"positive-same", "positive-same#2", "positive-same#3"} == names


def test_scores_are_told_beside_the_published_ones(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path, plain(11, 66), plain(3, -9))
    read(tmp_path)
    assert "11 rows, deciles of the score 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76 (published: 66, 72," in caplog.text
    assert "fewer than the 102000 to draw: all are taken" in caplog.text


def saved_tokenizer(folder: Path, layout: str) -> Path:
    from alol.models.scratch import train_tokenizer

    tokenizer = train_tokenizer(["some words and more words about things", "<URL>"] * 3, 300)
    tokenizer.save_pretrained(folder)
    if layout == "parts":
        tokenizer.backend_tokenizer.model.save(str(folder))
        (folder / "tokenizer.json").unlink()
    return folder


@pytest.mark.parametrize("layout", ["tokenizer.json", "parts"])
def test_tokens_are_counted_as_the_model_counts_them(tmp_path, layout):
    from transformers import GPT2TokenizerFast

    from alol.models.scratch import train_tokenizer

    texts = ["some words", "  more\nthings, éé", "", "<URL> and words"]
    count = token_counts.tokenizer(str(saved_tokenizer(tmp_path / layout, layout)), None)
    same = train_tokenizer(["some words and more words about things", "<URL>"] * 3, 300)
    assert count(texts) == [len(ids) for ids in same(texts, add_special_tokens=False)["input_ids"]]
    if layout == "parts":
        published = GPT2TokenizerFast.from_pretrained(tmp_path / layout)
        assert count(texts) == [len(ids) for ids in published(texts, add_special_tokens=False)["input_ids"]]


def test_parent_and_comment_cost_what_the_joined_text_does(tmp_path):
    from transformers import GPT2TokenizerFast

    folder = saved_tokenizer(tmp_path, "parts")
    parent, text, end = "some words, and", "(more) <URL> words é", OPTIONS["separator"]
    joined = GPT2TokenizerFast.from_pretrained(folder)(parent + end + text + end)["input_ids"]
    assert sum(token_counts.tokenizer(str(folder), None)([parent, text])) + 2 == len(joined)


def cached_on_a_hub(cache: Path, layout: str) -> None:
    """What a download of `org/small` at `main` leaves behind."""
    commit = "0123456789" * 4
    place = cache / "models--org--small"
    saved_tokenizer(place / "snapshots" / commit, layout)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)


@pytest.mark.parametrize("layout", ["tokenizer.json", "parts"])
def test_a_cached_tokenizer_is_found_without_a_connection(tmp_path, monkeypatch, layout):
    cached_on_a_hub(tmp_path, layout)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    token_counts.tokenizer.cache_clear()  # of the other layout's
    assert token_counts.tokenizer("org/small", "main")([""]) == [0]
    with pytest.raises(InputError, match=r"cannot fetch the tokenizer of org/other: .") as error:
        token_counts.tokenizer("org/other", "main")
    assert "\n" not in str(error.value)


def test_a_hub_tokenizer_without_a_revision_is_one_line():
    with pytest.raises(InputError, match="'org/small' is no folder, and a hub id needs a revision beside it"):
        token_counts.tokenizer("org/small", None)


def test_rows_of_too_many_tokens_are_left_out(tmp_path):
    folder = saved_tokenizer(tmp_path / "tokenizer", "parts")
    count = token_counts.tokenizer(str(folder), None)
    positive = plain(20, 66)
    write(tmp_path, positive, plain(20, -50))
    limit = max(sum(count([row["parent_text"], row["text"]])) for row in positive[:10]) + 2
    splits = read(tmp_path, max_tokens=limit, tokenizer=str(folder))
    kept = [row for part in ("test", "validation", "train") for row in splits[part] if row["subset"] == "positive"]
    expected = [row["id"] for row in positive if sum(count([row["parent_text"], row["text"]])) + 2 <= limit]
    assert sorted(row["prompt_id"] for row in kept) == sorted(f"positive-{name}" for name in expected)
    assert 10 <= len(kept) < 20


def test_a_missing_tokenizer_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt"):
        token_counts.tokenizer(str(tmp_path), None)
    write(tmp_path, plain(3, 66), plain(3, -9))
    with pytest.raises(InputError, match="max_tokens needs"):
        read(tmp_path, max_tokens=300)


@pytest.mark.parametrize("name", ["sample", "test", "validation"])
def test_a_number_of_rows_below_one_is_one_line(tmp_path, name):
    with pytest.raises(InputError, match=f"clean.options.{name} is -1; give a number of comments above 0"):
        read(tmp_path, **{name: -1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,text,score\n1,a,2\n", r"up.csv, line 2: no column 'parent_text'; there are: id, text, score"),
        (b"id,text,parent_text,score,parent_score\n1,a,b\xff,2,3\n", r"up.csv, line 2: not UTF-8 at byte 6"),
        (b"id,text,parent_text,score,parent_score\n1,a,b,high,3\n", r"line 2: column 'score' is 'high', not a number"),
        (b'id,text,parent_text,score,parent_score\n1,"a,b,2,3\n', r"up.csv, line 2: unexpected end of data"),
        (b"id,text,parent_text,score,parent_score\n1,a,b,2\n", r"line 2: 4 cells under a header of 5 columns"),
        (b"id,text,parent_text,score,parent_score\n1,a,b,2,3\n", r"1 rows pass the filters, fewer than 3"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, content, message):
    write(tmp_path, plain(3, 66), plain(3, -9))
    (tmp_path / "positive/up.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path)
