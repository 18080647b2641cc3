"""Stage clean: what it writes, what it refuses, and that nothing half written stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from alol.base.errors import InputError, ParameterError
from alol.data import schema
from alol.data.clean import checked, class_of, where
from stages.clean import main
from tests.raw_project import HHA, dialogue, error_line, project, run, write_lines

RAW, CLEAN = Path("data/raw/mine"), Path("data/clean/mine")
LABELS = {"file": "archive/rated.jsonl", "prompt": "q", "response": "a", "context": {"note": "n"}, "label": "good"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_raw(train: list, labelled: list | None = None) -> None:
    write_lines(RAW / "archive" / "train.json", train)
    write_lines(RAW / "archive" / "dev.json", [dialogue("dev", ["a", "b"])])
    write_lines(RAW / "archive" / "test.json", [dialogue("test", ["a", "b"])])
    if labelled is not None:
        write_lines(RAW / "archive" / "rated.jsonl", labelled)


def test_every_split_and_the_labelled_texts_are_written(folder):
    rated = [{"q": "q", "a": str(i), "n": i, "good": label} for i, label in enumerate([1, 0, "?", 1])]
    write_raw([dialogue(f"{i}", ["a", "b"]) for i in range(3)], rated)
    labels = {"rated": {**LABELS, "classes": [[0], ["1"]]}}
    project(folder, {}, {"format": "hha", "options": HHA, "labels": labels})
    result = run(main)
    assert result.exit_code == 0, result.output
    assert [schema.count(CLEAN / f"{split}.parquet") for split in schema.SPLITS] == [6, 2, 2]
    assert schema.rows(CLEAN / "labels" / "rated.parquet") == [
        {"prompt": "q", "response": "0", "context": {"note": 0}, "label": 1},
        {"prompt": "q", "response": "1", "context": {"note": 1}, "label": 0},
        {"prompt": "q", "response": "3", "context": {"note": 3}, "label": 1},
    ]
    lines = result.stderr.splitlines()
    assert lines[0].split() == ["train", "3", "prompts", "6", "responses", "(train", "3)"]
    assert lines[-1] == "labels/rated  3 rows (class 0: 1, class 1: 2); left out: 1 (?)"


def test_the_limit_counts_training_prompts_alone(folder):
    write_raw([dialogue(f"{i}", ["a", "b"]) for i in range(5)])
    project(folder, {}, {"format": "hha", "options": HHA, "limit": 2})
    assert run(main).exit_code == 0
    rows = schema.rows(CLEAN / "train.parquet")
    assert [row["prompt_id"] for row in rows] == ["train-0", "train-0", "train-1", "train-1"]
    assert schema.count(CLEAN / "validation.parquet") == 2


RATED = [(0, 0, 4), (0, 1, 9), (0, 2, 10), (1, 0, 3), (2, 0, "9"), (2, 1, None), (3, 0, 11)]  # prompt, rank, rating


def rated() -> list[dict]:
    named = {"prompt": "q", "subset": "all", "cuts": [], "turns": []}
    return [
        {**named, "prompt_id": str(i), "rank": rank, "response": str(rating), "context": {"rating": rating, "n": i}}
        for i, rank, rating in RATED
    ]


@pytest.mark.parametrize(
    ("intervals", "kept"),
    [
        ({"rating": [9, 10]}, [("0", 0, 9), ("0", 1, 10), ("2", 0, "9")]),
        ({"rating": [None, 4]}, [("0", 0, 4), ("1", 0, 3)]),
        ({"rating": [10, None]}, [("0", 0, 10), ("3", 0, 11)]),
        ({"rating": [None, None]}, [(str(i), rank, rating) for i, rank, rating in RATED if rating is not None]),
        ({"rating": [9, 10], "n": [2, 2]}, [("2", 0, "9")]),
        ({"rating": [5, 5]}, []),
    ],
)
def test_training_responses_are_kept_by_their_numbers(intervals, kept):
    found = checked(where(rated(), intervals), "train", None)
    assert [(row["prompt_id"], row["rank"], row["context"]["rating"]) for row in found] == kept


def test_a_number_that_no_training_response_has_is_named_with_those_there_are():
    said = "clean.where.ratings is no number of a training response; there are: n, rating"
    with pytest.raises(ParameterError, match=f"^{said}$"):
        list(where(rated(), {"ratings": [1, 2]}))


def test_the_limit_counts_what_is_kept_and_other_splits_stay_whole(folder):
    for split, count in (("train", 6), ("dev", 3), ("test", 2)):
        texts = [{"prompt": f"{split} {i}", "completion": "yes", "stars": i} for i in range(count)]
        write_lines(RAW / "archive" / f"{split}.jsonl", texts)
    files = {"train": "archive/train.jsonl", "validation": "archive/dev.jsonl", "test": "archive/test.jsonl"}
    project(folder, {}, {"format": "chat", "options": files, "where": {"stars": [2, None]}, "limit": 3})
    result = run(main)
    assert result.exit_code == 0, result.output
    assert [row["context"]["stars"] for row in schema.rows(CLEAN / "train.parquet")] == [2, 3, 4]
    assert [schema.count(CLEAN / f"{split}.parquet") for split in ("validation", "test")] == [3, 2]
    assert "clean.where keeps 4 of 6 training responses" in result.stderr


def test_equal_raw_files_give_equal_bytes(folder):
    write_raw([dialogue("q", ["a", "b"])])
    project(folder, {}, {"format": "hha", "options": HHA})
    run(main)
    first = (CLEAN / "train.parquet").read_bytes()
    run(main)
    assert (CLEAN / "train.parquet").read_bytes() == first


@pytest.mark.parametrize("train", [[], [dialogue("q", ["a", "all of it ends so:"])]])
def test_an_empty_training_split_is_one_line_and_writes_nothing(folder, train):
    write_raw(train)
    project(folder, {}, {"format": "hha", "options": {**HHA, "drop_colon": True}})
    result = run(main)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert errors == ["Error: the train split of 'mine' has no rows; check tasks/mine.yaml: clean, and its raw files"]
    assert not CLEAN.exists()
    assert list(CLEAN.parent.iterdir()) == []


def test_a_failed_run_keeps_what_an_earlier_one_wrote(folder):
    write_raw([dialogue("q", ["a", "b"])])
    project(folder, {}, {"format": "hha", "options": HHA})
    run(main)
    write_raw([dialogue("q", ["a", "b"]), {"prefix": []}])
    assert "line 2" in error_line(main)
    assert schema.count(CLEAN / "train.parquet") == 2


@pytest.mark.parametrize(
    ("clean", "message"),
    [
        ({"format": "tabel"}, "unknown format 'tabel'; known: chat, comet, demo, hha, knowledge, reddit, table"),
        ({"format": "hha", "options": {**HHA, "sytem": ""}}, "tasks/mine.yaml: clean.options.sytem is unknown"),
        (
            {"format": "hha", "options": HHA, "where": {"stars": [5, 1]}},
            "tasks/mine.yaml: clean.where.stars is [5, 1], but must be [lowest, highest], null for an open end",
        ),
        (
            {"format": "hha", "options": HHA, "where": {"stars": [5]}},
            "tasks/mine.yaml: clean.where.stars is [5], but must be [lowest, highest], null for an open end",
        ),
        ({"format": "hha", "options": HHA, "limit": 0}, "tasks/mine.yaml: clean.limit is 0, but must be at least 1"),
        ({"format": "hha", "options": {**HHA, "train": "archive/none.json"}}, f"{RAW}/archive/none.json is missing"),
    ],
)
def test_wrong_parameters_are_named(folder, clean, message):
    write_raw([dialogue("q", ["a", "b"])])
    project(folder, {}, clean)
    assert message in error_line(main)
    assert not CLEAN.exists()


def test_a_file_that_lies_elsewhere_is_found_for_the_user(folder):
    write_raw([dialogue("q", ["a", "b"])])
    project(folder, {}, {"format": "hha", "options": {**HHA, "train": "other/train.json"}})
    assert f"{RAW}/other/train.json is missing" in (line := error_line(main))
    assert line.endswith("; there is: archive/train.json")


def test_missing_raw_files_name_the_stage_that_fetches_them(folder):
    project(folder, {}, {"format": "hha", "options": HHA})
    assert "data/raw/mine is missing; run `dvc repro download`" in error_line(main)


def row(prompt_id: str = "a", rank: int = 0, prompt: str = "p") -> dict:
    return {"prompt_id": prompt_id, "rank": rank, "prompt": prompt, "response": "r"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(rank=1)], "prompt 'a': a row has rank 1, where 0 must follow"),
        ([row(), row(rank=2)], "rank 2, where 1 must follow"),
        ([row(), row()], "rank 0, where 1 must follow"),
        ([row(), row("b"), row(rank=1)], "not together, or two prompts have this id"),
        ([row(), row("b"), row()], "two prompts have this id"),
        ([row(prompt=" ")], "the prompt is empty"),
    ],
)
def test_rows_that_break_the_form_are_refused(rows, message):
    with pytest.raises(InputError, match=message):
        list(checked(rows, "train", None))


def test_a_class_without_rows_or_a_label_in_two_classes_is_refused(folder):
    with pytest.raises(InputError, match=r"labels\.x.classes has '1' twice"):
        class_of([[1], ["1"]], "labels.x")
    with pytest.raises(InputError, match="at least two classes"):
        class_of([[1]], "labels.x")
    write_raw([dialogue("q", ["a", "b"])], [{"q": "q", "a": "a", "n": 1, "good": "Safe"}])
    labels = {"rated": {**LABELS, "classes": [["Safe"], ["unsafe"]]}}
    project(folder, {}, {"format": "hha", "options": HHA, "labels": labels})
    result = run(main)
    assert "clean.labels.rated: archive/rated.jsonl has no label of class ['unsafe']" in result.stderr
    assert not CLEAN.exists()


def test_the_context_survives_the_way_through_parquet(folder):
    write_raw([{**dialogue("q", ["a", "b"]), "reward": [0.1, -3]}])
    project(folder, {}, {"format": "hha", "options": HHA})
    run(main)
    assert [row["context"] for row in schema.rows(CLEAN / "train.parquet")] == [{"reward": 0.1}, {"reward": -3.0}]


def test_numbers_of_further_texts_are_read_also_from_csv(folder):
    write_raw([dialogue("0", ["a", "b"])])
    cells = ["q,a,n,stars", "q,one,1,4.5", "q,two,2,", "q,,3,1", "q,three,4,-2e0", "q,four,5,3"]
    (RAW / "archive" / "rated.csv").write_text("\n".join(cells) + "\n")
    labels = {"file": "archive/rated.csv", "prompt": "q", "response": "a", "score": "stars"}
    project(folder, {}, {"format": "hha", "options": HHA, "labels": {"rated": labels}})
    result = run(main)
    assert result.exit_code == 0, result.output
    rows = schema.rows(CLEAN / "labels" / "rated.parquet", schema.SCORED)
    assert [(row["response"], row["score"]) for row in rows] == [("one", 4.5), ("three", -2.0), ("four", 3.0)]
    last = result.stderr.splitlines()[-1]
    assert last == "labels/rated  3 rows (scores from -2 to 4.5); 1 without a score left out; 1 without a text left out"


@pytest.mark.parametrize(
    ("cell", "message"),
    [("good", "rated.csv, line 3: column 'stars' must be a number, but is 'good'"), ("4", "has the number 4 alone")],
)
def test_scores_that_say_nothing_are_refused(folder, cell, message):
    write_raw([dialogue("0", ["a", "b"])])
    (RAW / "archive" / "rated.csv").write_text(f"a,stars\none,4\ntwo,{cell}\n")
    labels = {"file": "archive/rated.csv", "response": "a", "score": "stars"}
    project(folder, {}, {"format": "hha", "options": HHA, "labels": {"rated": labels}})
    result = run(main)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not CLEAN.exists()


def test_labels_and_scores_exclude_each_other(folder):
    write_raw([dialogue("0", ["a", "b"])], [{"a": "x", "good": 1}])
    both = {"file": "archive/rated.jsonl", "response": "a", "label": "good", "classes": [[0], [1]], "score": "good"}
    for labels, message in (
        (both, "clean.labels.rated.score stands beside label and classes"),
        ({**both, "score": None, "label": None}, "clean.labels.rated.label is not set"),
    ):
        project(folder, {}, {"format": "hha", "options": HHA, "labels": {"rated": labels}})
        result = run(main)
        assert result.exit_code == 1
        assert message in result.stderr
