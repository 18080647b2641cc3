"""The table format and the raw files under it: every kind of file, grouping, splitting off, and named mistakes."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alol.base.errors import InputError
from alol.config import build
from alol.data import rawfiles, rawjson, rawtext, schema
from alol.data.formats import table
from tests.raw_project import write_lines

OPTIONS = {
    "train": "train.jsonl",
    "validation": "other.jsonl",
    "test": "other.jsonl",
    "shares": {"validation": 0.2, "test": 0.3},
    "seed": 1,
    "prompt": "q",
    "response": "a",
    "marks": [],
    "id": None,
    "preference": None,
    "context": {},
}


def read(folder: Path, rows: list | None = None, **options) -> dict[str, list]:
    if rows is not None:
        write_lines(folder / "train.jsonl", rows)
    write_lines(folder / "other.jsonl", [{"q": "x", "a": "y", "id": 0, "score": 0, "topic": None}])
    made = build.build(table.Options, {**OPTIONS, **options}, "clean.options")
    return {split: list(rows) for split, rows in table.read(folder, made).items()}


def test_three_raw_rows_become_the_expected_rows(tmp_path):
    rows = [
        {"id": 7, "q": "Why? ", "a": "So.", "score": 1, "topic": {"name": "x"}},
        {"id": "b", "q": "Who?", "a": "Me.", "score": 0.5, "topic": None},
        {"id": 7, "q": "Why? ", "a": "Because.", "score": 2, "topic": 3},
    ]
    splits = read(tmp_path, rows, id="id", preference="score", context={"about": "topic"})
    common = {"subset": "train", "cuts": [0], "turns": []}
    who = {**common, "prompt_id": "train-b", "prompt": "Who?", "context": {"about": None}, "rank": 0, "response": "Me."}
    why = {**common, "prompt_id": "train-7", "prompt": "Why? "}
    assert splits["train"] == [
        who,
        {**why, "context": {"about": 3}, "rank": 0, "response": "Because."},
        {**why, "context": {"about": {"name": "x"}}, "rank": 1, "response": "So."},
    ]
    assert splits["test"][0]["prompt_id"] == "test-0"


def test_equal_prompts_and_lists_of_responses_are_ranked_by_their_order(tmp_path):
    rows = [{"q": "one", "a": ["first", "second"]}, {"q": "two", "a": "only"}, {"q": "one", "a": "third"}]
    found = [(row["prompt_id"], row["rank"], row["response"]) for row in read(tmp_path, rows)["train"]]
    one = [("train-1", 0, "first"), ("train-1", 1, "second"), ("train-1", 2, "third")]
    assert found == [("train-0", 0, "only"), *one]


def test_a_list_of_preferences_orders_a_list_of_responses(tmp_path):
    rows = [{"q": "one", "a": ["low", "high", "equal"], "score": [1, 2, 2]}]
    found = [row["response"] for row in read(tmp_path, rows, preference="score")["train"]]
    assert found == ["high", "equal", "low"]


def test_splitting_off_is_exact_seeded_and_by_prompt(tmp_path):
    rows = [{"q": f"prompt {i % 10}", "a": f"{i}"} for i in range(20)]
    splits = read(tmp_path, rows, validation=None, test=None)
    prompts = {split: {row["prompt"] for row in rows} for split, rows in splits.items()}
    assert {split: len(found) for split, found in prompts.items()} == {"train": 5, "validation": 2, "test": 3}
    assert len(set.union(*prompts.values())) == 10
    assert all(len(rows) == 2 * len(prompts[split]) for split, rows in splits.items())
    again = read(tmp_path, rows[::-1], validation=None, test=None)
    assert {row["prompt"] for row in again["test"]} == prompts["test"]
    other = [read(tmp_path, rows, validation=None, test=None, seed=seed)["test"] for seed in range(2, 6)]
    assert any({row["prompt"] for row in rows} != prompts["test"] for rows in other)


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "array.json", "t.csv", "t.tsv", "t.parquet"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name, packed):
    rows = [{"q": 'a, b\n"c" é', "a": "1"}, {"q": "two", "a": "x\ty"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    content = {
        "t.jsonl": "\ufeff" + lines,
        "t.json": "\n" + lines,
        "array.json": json.dumps(rows, indent=1),
        "t.csv": 'q,a\n"a, b\n""c"" é",1\ntwo,x\ty\n',
        "t.tsv": 'q\ta\n"a, b\n""c"" é"\t1\ntwo\t"x\ty"\n',
    }
    path = tmp_path / name
    if name in content:
        data = content[name].encode()
        path = tmp_path / (name + ".gz") if packed else path
        path.write_bytes(gzip.compress(data) if packed else data)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    with rawtext.bounded(1 << 20, {"csv": "lines", "tsv": "lines"}):
        assert [record.values for record in rawfiles.records(path)] == rows
        found = read(tmp_path, train=path.name)["train"]
    assert [(row["prompt"], row["response"]) for row in found] == [(row["q"], row["a"]) for row in rows]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.csv", "t.csv.gz", "t.parquet"])
def test_a_progress_bar_ends_at_the_size_of_the_file(tmp_path, monkeypatch, name):
    path, bars = tmp_path / name, []
    rows = [{"q": f"question {i}", "a": "é"} for i in range(9)]
    if name == "t.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        csv_text = "q,a\n" + "".join(f"{row['q']},{row['a']}\n" for row in rows)
        text = {"t.jsonl": "".join(json.dumps(row) + "\n" for row in rows), "t.json": json.dumps(rows)}
        data = text.get(name, csv_text).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)

    class Bar(rawfiles.tqdm):
        def __init__(self, *args, **options):
            super().__init__(*args, **{**options, "disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(rawfiles, "tqdm", Bar)
    assert [record.values for record in rawfiles.records(path, title="reading")] == rows
    assert [(bar.desc, bar.n, bar.total) for bar in bars] == [("reading", *[path.stat().st_size] * 2)]


def test_an_array_is_read_the_same_in_small_pieces(tmp_path, monkeypatch):
    rows = [{"q": f"[{i}], {{", "a": "x" * i} for i in range(40)]
    path = tmp_path / "array.json"
    path.write_text("\n" + json.dumps(rows, indent=2) + "\n")
    for chunk in (1, 7, 64):
        monkeypatch.setattr(rawjson, "CHUNK", chunk)
        assert [record.values for record in rawfiles.records(path)] == rows
    path.write_text(" [ \n ] ")
    assert list(rawfiles.records(path)) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", b'[{"q": 1}, {"q"', r"t.json, item 2: not valid JSON, perhaps cut off"),
        ("t.json", b'[{"q": 1} {"q": 2}]', r"t.json, item 2: not valid JSON"),
        ("t.json", b'[{"q": 1}] x', r"t.json, item 2: not valid JSON"),
        ("t.json", b'[{"q": 1}, null]', r"t.json, item 2: must be a JSON object, but is null"),
        ("t.json", b"[1]", r"t.json, item 1: must be a JSON object, but is 1"),
        ("t.json", b'[{"q": "\xff"}]', r"t.json, item 1 or soon after: not UTF-8"),
        ("t.jsonl", b'{"q": 1}\n\n[1]\n', r"t.jsonl, line 3: must be a JSON object"),
        ("t.csv", b"q,a\n1,2\n3\n", r"t.csv, line 3: 1 cells under a header of 2 columns"),
        ("t.csv", b'q,a\n"1,2\n', r"t.csv, line 2: "),
        ("t.csv", b"q,q\n", r"t.csv, line 1: must be a header"),
        ("t.csv", b"q,a\n1,\xff\n", r"t.csv, line 2: not UTF-8"),
        ("t.jsonl.gz", gzip.compress(b'{"q": 1}\n' * 100, mtime=0)[:-10], r"t.jsonl.gz is cut off or not a gzip file"),
        ("t.jsonl.gz", b'{"q": 1}\n', r"t.jsonl.gz is cut off or not a gzip file"),
        ("t.parquet", b"PAR1", r"t.parquet is not a readable Parquet file"),
        ("t.xlsx", b"", r"t.xlsx: unknown kind of file; known: .jsonl"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(rawfiles.records(tmp_path / name))


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"a": "x"}, {}, "line 2: no column 'q'; there are: a"),
        ({"q": " ", "a": "x"}, {}, "line 2: column 'q' must be a text, but is empty"),
        ({"q": "q", "a": ""}, {}, "line 2: column 'a' must be a text or a list of texts, none empty"),
        ({"q": "q", "a": []}, {}, "line 2: column 'a' must be"),
        ({"q": "q", "a": 5}, {}, "line 2: column 'a' must be"),
        ({"q": "q", "a": "x", "id": None}, {"id": "id"}, "line 2: column 'id' must be a text or an integer"),
        ({"q": "other", "a": "x", "id": 1}, {"id": "id"}, "line 2: another prompt than in .*line 1"),
        ({"q": "q", "a": "x", "score": "hi"}, {"preference": "score"}, "line 2: column 'score' must hold a number"),
        ({"q": "q", "a": ["x", "y"], "score": [1]}, {"preference": "score"}, "line 2: column 'score'"),
        ({"q": "q", "a": "x"}, {"context": {"k": "topic"}}, "line 2: no column 'topic'"),
    ],
)
def test_a_wrong_row_is_named_by_file_line_and_column(tmp_path, row, options, message):
    first = {"q": "first", "a": "x", "id": 1, "score": 1, "topic": 1}
    with pytest.raises(InputError, match=message):
        read(tmp_path, [first, row], **options)


def test_numbers_of_a_csv_are_numbers_of_the_context(tmp_path):
    (tmp_path / "train-0.csv").write_text("q,a,score,code\n1,x,0.5,007\n2,y,3,1\n")
    (tmp_path / "train-1.csv").write_text("q,a,score,code\n1,z,-1,1\n")
    context = {"score": "score", "code": "code", "asked": "q"}
    files = {"train": "train-*.csv", "validation": "train-0.csv", "test": "train-0.csv"}
    found = read(tmp_path, **files, preference="score", context=context)["train"]
    assert [(row["prompt"], row["response"], row["context"]) for row in found] == [
        ("2", "y", {"score": 3, "code": "1", "asked": "2"}),
        ("1", "x", {"score": 0.5, "code": "007", "asked": "1"}),
        ("1", "z", {"score": -1, "code": "1", "asked": "1"}),
    ]


@pytest.mark.parametrize("shares", [{"validation": 0.5, "test": 0.5}, {"validation": 0.0, "test": 0.1}])
def test_shares_that_leave_nothing_are_refused(shares):
    with pytest.raises(InputError, match=r"clean\.options\.shares"):
        table.FORMAT.check(
            build.build(table.Options, {**OPTIONS, "validation": None, "test": None, "shares": shares}, "clean.options")
        )


@pytest.mark.parametrize("name", ["../train.jsonl", "/etc/passwd", ""])
def test_a_raw_file_lies_below_the_raw_folder(tmp_path, name):
    with pytest.raises(InputError, match="is not a path below"):
        read(tmp_path, train=name)


def test_marks_are_found_in_prompts_and_come_back_from_the_table(tmp_path):
    rows = [{"q": "<a>Hi<b><a>", "a": "x"}, {"q": "none", "a": "y"}]
    read_rows = read(tmp_path, rows, marks=["<a>", "<b>"])["train"]
    schema.write(tmp_path / "t.parquet", schema.RESPONSES, read_rows)
    assert [row["marks"] for row in schema.rows(tmp_path / "t.parquet", schema.RESPONSES)] == [[0, 3, 5, 8, 8, 11], []]
    schema.write(tmp_path / "t.parquet", schema.RESPONSES, read(tmp_path, rows)["train"])
    assert all("marks" not in row for row in schema.rows(tmp_path / "t.parquet", schema.RESPONSES))
