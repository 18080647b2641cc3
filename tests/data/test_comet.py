"""Commonsense triples: prompts to the byte, tails grouped by prompt, samples that repeat, one line for bad input."""

from __future__ import annotations

import gzip
import json
import logging
import random
from pathlib import Path

import pytest

from alol.base.errors import InputError
from alol.data.formats import comet

RELATIONS = ["xNeed", "xWant", "xEffect"]
OPTIONS = {
    "atomic10x": "skd/ATOMIC10X.jsonl",
    "atomic2020": "skd/test.tsv",
    "test": ["atomic2020"],
    "relations": RELATIONS,
    "train_prompts": None,
    "validation_rows": None,
    "test_prompts": None,
    "seed": 901,
}


def triple(head: str, relation: str, tail: str, score: float, split: str = "train") -> dict:
    recalls = {f"rec_0.{i}": score > i / 10 for i in range(5, 10)}
    return {"head": head, "relation": relation, "tail": tail, "split": split, **recalls, "p_valid_model": score}


TRIPLES = [
    triple("PersonX bakes bread ", "xNeed", "to buy flour", 0.25),
    triple("PersonX runs", "xEffect", "sweats.", 0.5),
    triple("PersonX bakes bread", "xNeed", " to knead ", 0.75),
    triple("PersonX runs", "oReact", "happy", 1.0),
    triple("PersonX sings", "xWant", "to stop", 0.125, "val"),
    triple("PersonX sings", "xWant", "to go on", 0.5, "val"),
    triple("PersonX waits", "xNeed", "time", 0.5, "test"),
]
TEST = (
    "PersonX eats\txNeed\tto cook\nPersonX eats\txReact\tfull\n"
    "PersonX naps\txWant\tto rest\nPersonX eats\txNeed\tfood\n"
)


def write(raw: Path, triples: list[dict] = TRIPLES, test: str = TEST) -> None:
    (raw / "skd").mkdir(exist_ok=True)
    (raw / "skd/ATOMIC10X.jsonl").write_text("".join(json.dumps(item) + "\n" for item in triples), encoding="utf-8")
    (raw / "skd/test.tsv").write_text(test, encoding="utf-8")


def read(raw: Path, **changes) -> dict[str, list]:
    return {split: list(rows) for split, rows in comet.read(raw, comet.Options(**{**OPTIONS, **changes})).items()}


def test_raw_triples_become_the_expected_rows(tmp_path):
    write(tmp_path)
    prompt = "<head> PersonX bakes bread </head> <relation> xNeed </relation> [GEN] "
    context = {"head": "PersonX bakes bread", "relation": "xNeed", "p_valid_model": 0.75}
    first = {
        "prompt_id": "train-1",
        "subset": "train",
        "prompt": prompt,
        "cuts": [0],
        "marks": [0, 6, 27, 34, 35, 45, 52, 63, 64, 69],
        "turns": [],
        "context": context,
        "rank": 0,
        "response": " to knead ",
    }
    second = {**first, "context": {**context, "p_valid_model": 0.25}, "rank": 1, "response": "to buy flour"}
    runs = {
        **first,
        "prompt_id": "train-0",
        "prompt": "<head> PersonX runs </head> <relation> xEffect </relation> [GEN] ",
        "marks": [0, 6, 20, 27, 28, 38, 47, 58, 59, 64],
        "context": {"head": "PersonX runs", "relation": "xEffect", "p_valid_model": 0.5},
        "response": "sweats.",
    }
    assert read(tmp_path)["train"] == [runs, first, second]


def test_the_test_file_has_no_header_and_no_scores(tmp_path):
    write(tmp_path)
    rows = read(tmp_path)["test"]
    assert [(row["prompt_id"], row["rank"], row["response"]) for row in rows] == [
        ("atomic2020-0", 0, "to rest"),
        ("atomic2020-1", 0, "to cook"),
        ("atomic2020-1", 1, "food"),
    ]
    assert rows[0]["context"] == {"head": "PersonX naps", "relation": "xWant"}
    both = read(tmp_path, test=["atomic10x", "atomic2020"])["test"]
    assert [row["subset"] for row in both] == ["atomic10x", "atomic2020", "atomic2020", "atomic2020"]


def test_gzipped_files_are_read_too(tmp_path):
    write(tmp_path)
    expected = read(tmp_path)
    for name in ("ATOMIC10X.jsonl", "test.tsv"):
        path = tmp_path / "skd" / name
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert read(tmp_path, atomic10x="skd/ATOMIC10X.jsonl.gz", atomic2020="skd/test.tsv.gz") == expected


def test_other_relations_are_listed_and_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path)
    read(tmp_path)
    assert "1 train triples of other relations are left out (oReact 1)" in caplog.text
    assert "test.tsv: 1 triples of other relations are left out (xReact 1)" in caplog.text


def test_validation_rows_are_those_that_the_seed_draws(tmp_path):
    triples = [triple(f"PersonX does {i % 20}", "xNeed", f"tail {i}", 0.5, "val") for i in range(50)]
    write(tmp_path, [*TRIPLES[:3], *triples])
    rows = read(tmp_path, validation_rows=30)["validation"]
    expected = [item["tail"] for item in random.Random(901).sample(triples, 30)]
    assert sorted(row["response"] for row in rows) == sorted(expected)
    assert len({row["prompt"] for row in rows}) == len({row["prompt_id"] for row in rows})
    assert rows == read(tmp_path, validation_rows=30)["validation"]
    assert len(read(tmp_path, validation_rows=99)["validation"]) == 50


def test_test_prompts_are_drawn_with_all_their_tails(tmp_path):
    lines = [f"PersonX does {i % 20}\txNeed\ttail {i}\n" for i in range(60)]
    write(tmp_path, test="".join(lines))
    rows = read(tmp_path, test_prompts=5)["test"]
    assert len({row["prompt"] for row in rows}) == 5
    assert len(rows) == 15
    assert rows != read(tmp_path, test_prompts=5, seed=1)["test"]


def test_training_prompts_are_drawn_from_all_of_a_sorted_file_with_all_their_tails(tmp_path):
    triples = [triple(f"PersonX does {i // 2}", RELATIONS[i // 20], f"tail {i}", 0.5) for i in range(60)]
    write(tmp_path, triples)
    rows = read(tmp_path, train_prompts=12)["train"]
    assert len({row["prompt"] for row in rows}) == 12 and len(rows) == 24
    assert {row["context"]["relation"] for row in rows} == set(RELATIONS)
    assert [row["response"] for row in rows] == sorted((row["response"] for row in rows), key=lambda t: int(t[5:]))
    assert len(read(tmp_path, train_prompts=99)["train"]) == 60


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"head": "a", "relation": "xNeed"', "line 1: not valid JSON, perhaps cut off"),
        ('{"head": "a", "relation": "xNeed", "split": "train"}', "line 1: no column 'tail'"),
        ('{"head": "a", "relation": "xNeed", "tail": " ", "split": "train"}', "line 1: column 'tail' must be a text"),
        ('{"head": "a", "relation": "xNeed", "tail": "b", "split": "dev"}', "line 1: column 'split' is 'dev'; known:"),
        (json.dumps(triple("a", "xNeed", "b", 1.0) | {"p_valid_model": "high"}), "'p_valid_model' is 'high', not a"),
    ],
)
def test_a_bad_row_is_one_line(tmp_path, lines, message):
    write(tmp_path)
    (tmp_path / "skd/ATOMIC10X.jsonl").write_text(lines + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_bytes_that_are_no_text_name_the_line(tmp_path):
    write(tmp_path)
    (tmp_path / "skd/test.tsv").write_bytes(b"PersonX eats\txNeed\tfood\nPersonX \xff\txNeed\tfood\n")
    with pytest.raises(InputError, match=r"test.tsv, line 2: not UTF-8 at byte 9"):
        read(tmp_path)


def test_a_test_file_must_be_named():
    with pytest.raises(InputError, match="must name a file"):
        comet.FORMAT.check(comet.Options(**{**OPTIONS, "atomic2020": None}))
    with pytest.raises(InputError, match=r"clean\.options\.test is empty"):
        comet.FORMAT.check(comet.Options(**{**OPTIONS, "test": []}))
