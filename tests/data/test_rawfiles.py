"""Raw files that are hostile, damaged or without end: one line with the file and the place, in bounded memory."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alol.base.errors import InputError
from alol.config import build
from alol.data import rawfiles, rawtext, schema
from alol.data.formats import demo, hha, table
from stages.clean import main
from tests.data.test_table import OPTIONS
from tests.raw_project import HHA, dialogue, error_line, project, run, write_lines

LIMIT = 1_000


def read(path: Path, limit: int = 1 << 24) -> list:
    with rawtext.bounded(limit):
        return [record.values for record in rawfiles.records(path)]


def refused(path: Path, message: str, limit: int = 1 << 24) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(path, limit)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable()


LONG = "x" * LIMIT


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.jsonl",
            '{"a": 1}\n{"a": "' + LONG + '"}\n',
            "line 2: longer than 1,000 bytes; raise clean.max_line, unless",
        ),
        ("t.json", '{"a": "' + LONG + '"}\n', "line 1: longer than 1,000 bytes"),
        ("t.json", '[{"a": 1}, {"a": "' + LONG + '"}]', "item 2: longer than 1,000 bytes"),
        ("t.json", '[{"a": "' + LONG * 2000, "item 1: longer than 1,000 bytes"),
        ("t.json", "[" + " " * 5000 + "x", "item 1: longer than 1,000 bytes"),
        ("t.csv", f"a,b\n1,{LONG}\n", "line 2: longer than 1,000 bytes"),
        ("t.csv", 'a,b\n1,"' + "x\n" * LIMIT, r"line \d+: longer than 1,000 bytes"),
        ("t.csv", 'a,b\n"' + 'x\n","' * LIMIT, r"line \d+: longer than 1,000 bytes"),
        ("t.tsv", f"a\tb\n1\t{LONG}\n", "line 2: longer than 1,000 bytes"),
        ("t.csv", "," * LIMIT + "\n", "line 1: longer than 1,000 bytes"),
    ],
)
def test_lines_rows_and_items_are_bounded(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    refused(tmp_path / name, message, LIMIT)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    refused(tmp_path / f"{name}.gz", message, LIMIT)


def test_many_short_lines_are_more_than_the_bound_together(tmp_path):
    rows = [{"a": "x" * 900}] * 9
    write_lines(tmp_path / "t.jsonl", rows)
    (tmp_path / "t.json").write_text(json.dumps(rows))
    (tmp_path / "t.csv").write_text("a\n" + ("x" * 900 + "\n") * 9)
    for name in ("t.jsonl", "t.json", "t.csv"):
        assert read(tmp_path / name, LIMIT) == rows


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.json.gz", "array.json.gz", "t.csv.gz", "quoted.csv.gz"])
def test_a_small_file_with_one_endless_line_takes_little_memory(tmp_path, name):
    start = {"t.csv.gz": b"a\n", "quoted.csv.gz": b'a\n"', "array.json.gz": b'[{"a": "'}.get(name, b'{"a": "')
    with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
        file.write(start)
        for _ in range(64):
            file.write(b"x" * (1 << 20))
    tracemalloc.start()
    try:
        refused(tmp_path / name, "longer than 2,000,000 bytes", 2_000_000)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


DEEP = "[" * 100_000
DEEP_PAIRS = '{"a":' * 500 + "1" + "}" * 500


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", f'{{"a": {DEEP}'.encode(), "line 1: nested deeper than 200 levels"),
        ("t.jsonl", f'{{"a": 1}}\n{DEEP_PAIRS}\n'.encode(), "line 2: nested deeper than 200 levels"),
        ("t.json", DEEP.encode(), "item 1: nested deeper than 200 levels"),
        ("t.json", f"[{DEEP_PAIRS}]".encode(), "item 1: nested deeper than 200 levels"),
        ("t.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "line 1: not valid JSON.*digits"),
        ("t.json", b'[{"a": 1}, {"a": ' + b"9" * 5000 + b"}]", "item 2: not valid JSON.*digits"),
        ("t.jsonl", b'{"a": 1}\n{"a": "\\ud800"}', "line 2: has half of a surrogate pair"),
        ("t.jsonl", b'{"\\uDC00": 1}', "line 1: has half of a surrogate pair"),
        ("t.json", b'[{"a": ["\\udfff"]}]', "item 1: has half of a surrogate pair"),
        ("t.jsonl", b'{"a": "x\0y"}', "line 1: not valid JSON"),
        ("t.jsonl", b"\0" * 100, "line 1: not valid JSON"),
        ("t.json", b'[{"a": "x\0y"}]', "item 1: not valid JSON"),
        ("t.csv", b"a,b\n1,x\0y\n", "line 2: has a NUL byte"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "line 1: not UTF-8 at byte 1"),
        ("t.jsonl", '{"a": 1}'.encode("utf-16"), "line 1: not UTF-8 at byte 1"),
        ("t.jsonl", b'{"a": 1}\n{"a": "\xed\xa0\x80"}\n', "line 2: not UTF-8 at byte 8"),
        ("t.jsonl", b'{"a": 1}\n\xef\xbb\xbf{"a": 1}\n', "line 2: not valid JSON"),
        ("t.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0) + b"more", "is cut off or not a gzip file"),
        ("t.parquet", b"PAR1" * 10, "is not a readable Parquet file"),
        ("t.parquet", b"", "is not a readable Parquet file"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, message)


def test_what_is_unusual_but_right_is_read(tmp_path):
    deep: dict = {}
    for _ in range(150):
        deep = {"a": [deep][0]}
    rows = [deep, {"a": "\U0001f600\\ud800", "b": [[]] * 500}, {"n": 10**400}]
    (tmp_path / "t.jsonl").write_text("\ufeff" + "".join(json.dumps(row) + "\r\n" for row in rows), encoding="utf-8")
    (tmp_path / "t.json").write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    assert read(tmp_path / "t.jsonl") == rows
    assert read(tmp_path / "t.json") == rows


def test_numbers_too_large_for_a_float_are_named(tmp_path):
    rows = [{"q": "x", "a": "y", "score": 10**400}]
    write_lines(tmp_path / "t.jsonl", rows)
    made = {**OPTIONS, "train": "t.jsonl", "validation": "t.jsonl", "test": "t.jsonl", "preference": "score"}
    with pytest.raises(InputError, match="line 1: column 'score' must hold a number"):
        list(table.read(tmp_path, build.build(table.Options, made, "clean.options"))["train"])
    write_lines(tmp_path / "archive" / "train.json", [dialogue("q", ["a", "b"], [10**400, 1])])
    write_lines(tmp_path / "archive" / "dev.json", [dialogue("q", ["a", "b"])])
    with pytest.raises(InputError, match="line 1: column 'reward' has a number that is too large"):
        list(hha.read(tmp_path, build.build(hha.Options, HHA, "clean.options"))["train"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "nested deeper than 200 levels"),
        (b'{"a": [' + b"9" * 5000 + b"]}", "not valid JSON"),
        (b"\xff", "not UTF-8 at byte 1"),
        (b'{"a": ["' + b"x" * 2000 + b'"]}', "longer than 1,000 bytes"),
        (b"[]", "must be a JSON table from file name to row indices"),
        (b'{"a": [1.5]}', "must be a JSON table from file name to row indices"),
        (b'{"a": 1}', "must be a JSON table from file name to row indices"),
    ],
)
def test_a_whole_json_document_is_bounded_and_checked(tmp_path, content, message):
    (tmp_path / "excluded.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught, rawtext.bounded(LIMIT):
        if b"9" * 5000 in content or content.startswith(b"[["):
            with rawtext.bounded(1 << 20):
                hha._excluded(tmp_path, "excluded.json")
        hha._excluded(tmp_path, "excluded.json")
    assert str(caught.value).startswith(str(tmp_path / "excluded.json"))


@pytest.mark.parametrize(
    "row", [{}, {"id": 1}, {"responses": 5}, {"responses": [{"text": None}]}, {"responses": ["x"]}]
)
def test_a_row_of_the_demo_with_other_types_is_named(tmp_path, row):
    good = {"id": "a", "prompt": "p", "question": "q", "topic": "t", "accepted": [], "rejected": [], "responses": []}
    write_lines(tmp_path / "corpus" / "train.jsonl", [{**good, **row} if row else {}])
    with pytest.raises(InputError, match=r"train\.jsonl, line 1: not a row of the demo's corpus"):
        list(demo.read(tmp_path, demo.CleanOptions())["train"])


def parquet(path: Path, **keys) -> bytes:
    columns = {"q": [f"question {i * i}" for i in range(3000)], "a": [f"answer {i}" for i in range(3000)]}
    pq.write_table(pa.table(columns), path, **{"use_dictionary": False, "compression": "none", **keys})
    return path.read_bytes()


def test_parquet_of_other_bytes_is_one_line(tmp_path):
    path = tmp_path / "t.parquet"
    whole = parquet(path)
    place = whole.index(b"question 1521")
    path.write_bytes(whole[:place] + b"\xff\xfe" + whole[place + 2 :])
    refused(path, r"rows 1 to 3000: a value cannot be read \(.*[Uu][Tt][Ff]-?8")
    binary = pa.array([b"\xff\xfe"]).view(pa.string()) if hasattr(pa.Array, "view") else None
    pq.write_table(pa.table({"q": binary}), path)
    refused(path, r"rows 1 to 1: a value cannot be read")


def test_damage_inside_a_column_is_one_line(tmp_path):
    path, refusals = tmp_path / "t.parquet", 0
    for keys in (
        {"compression": "zstd"},
        {"write_page_checksum": True},
        {"use_dictionary": True, "compression": "snappy"},
    ):
        whole = parquet(path, **keys)
        for place in range(4, len(whole), len(whole) // 40):
            path.write_bytes(whole[:place] + b"\xff\xff\xff\xff" + whole[place + 4 :])
            try:
                read(path)
            except InputError as error:
                refusals += 1
                assert str(error).startswith(str(path)) and str(error).isprintable()
    assert refusals > 60
    whole = parquet(path, write_page_checksum=True)
    path.write_bytes(whole.replace(b"question 1521", b"question 1522"))
    refused(path, "CRC checksum")


def test_parquet_without_rows_or_with_a_column_twice(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"q": pa.array([], pa.string())}), path)
    assert read(path) == []
    pq.write_table(pa.table([[1], [2]], names=["q", "q"]), path)
    refused(path, "two columns have the same name")


def test_the_bound_is_a_parameter_of_clean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = Path("data/raw/mine/log")
    write_lines(raw / "t.jsonl", [{"q": "x" * 5000, "a": "y"}])
    options = {**OPTIONS, "train": "log/t.jsonl", "validation": "log/t.jsonl", "test": "log/t.jsonl"}
    project(tmp_path, {}, {"format": "table", "options": options, "max_line": 4000})
    assert "line 1: longer than 4,000 bytes; raise clean.max_line" in error_line(main)
    project(tmp_path, {}, {"format": "table", "options": options, "max_line": 10})
    assert "clean.max_line is 10, but must be from 1,000 to 1,000,000,000" in error_line(main)


def test_names_of_columns_in_a_message_are_short_and_printable(tmp_path):
    write_lines(tmp_path / "t.jsonl", [{"a\n\x1b": 1, "b" * 5000: 2, **{f"c{i}": 3 for i in range(5000)}}])
    with pytest.raises(InputError, match="no column 'q'; there are: ") as caught:
        rawfiles.column(next(rawfiles.records(tmp_path / "t.jsonl")), "q")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_a_raw_file_that_is_a_pipe_is_missing_and_not_waited_for(tmp_path):
    for name in ("t.jsonl", "t.csv", "t.parquet", "t.json"):
        os.mkfifo(tmp_path / name)
        refused(tmp_path / name, "is missing")


LONE = b'a\tb\n1\tx\n"lone\ty\n2\tz"\n3\tw\n'
CLOSE = "a cell begins with a double quote that is not closed; set clean.quoting.{} to none .*"


@pytest.mark.parametrize(
    ("name", "content", "quoting", "message"),
    [
        ("t.tsv", LONE, None, "line 3: " + CLOSE.format("tsv") + ", to lines where quoted cells have several lines"),
        ("t.tsv", b'a\tb\n"x\ny"\tz\n', None, "line 2: " + CLOSE.format("tsv")),
        ("t.tsv", b'"a\nc"\tb\nx\ty\n', None, "line 1: " + CLOSE.format("tsv")),
        ("t.tsv", b'a\tb\nx\t"y\n', None, "line 2: unexpected end of data: " + CLOSE.format("tsv")),
        ("t.tsv", b'a\tb\n"x" y\tz\n', None, "line 2: text follows the quote .* clean.quoting.tsv to none"),
        ("t.tsv", LONE, "lines", "line 4: 1 cells under a header of 2"),
        (
            "t.csv",
            b'a,b\n"x,1\ny,2\n',
            None,
            "lines 2 to 3: unexpected end of data: a cell begins .* none where quotes are letters, or close it",
        ),
        ("t.csv", b'a,b\n"x\ny",1\n', "line", "line 2: " + CLOSE.format("csv")),
        ("t.csv", b"a,b\r1,2\r", None, "line 1: has a carriage return .*tr "),
        ("t.csv", b"a,b\n1,x\ry\n", None, "line 2: has a carriage return"),
        ("t.tsv", b"a\tb\n1\tx\ry\n", "none", "line 2: has a carriage return"),
        ("t.jsonl", b'{"a": 1}\r{"a": 2}\r', None, "line 1: has a carriage return"),
    ],
)
def test_quotes_and_line_ends_that_would_join_rows_are_named(tmp_path, name, content, quoting, message):
    (tmp_path / name).write_bytes(content)
    with rawtext.bounded(LIMIT, quoting and {"csv": quoting, "tsv": quoting}):
        refused(tmp_path / name, message)


@pytest.mark.parametrize(
    ("name", "content", "quoting", "cells"),
    [
        ("t.tsv", b'a\tb\n"x ""y""\t"\tz\n5" pipe\t\n', "line", [['x "y"\t', "z"], ['5" pipe', ""]]),
        ("t.tsv", b"a\tb\r\n\r\n1\t2\r\n", "line", [["1", "2"]]),
        ("t.tsv", LONE, "none", [["1", "x"], ['"lone', "y"], ["2", 'z"'], ["3", "w"]]),
        ("t.csv", b'a,b\n"x,1\n""y"",2\n', "none", [['"x', "1"], ['""y""', "2"]]),
        ("t.tsv", b'a\tb\n"x\n\ny"\tz\n', "lines", [["x\n\ny", "z"]]),
        ("t.csv", b'a,b\n"x\ry",z\n', "line", [["x\ry", "z"]]),
    ],
)
def test_quoting_says_what_quotes_enclose(tmp_path, name, content, quoting, cells):
    (tmp_path / name).write_bytes(content)
    with rawtext.bounded(LIMIT, {"csv": quoting, "tsv": quoting}):
        assert [list(record.values.values()) for record in rawfiles.records(tmp_path / name)] == cells


def test_quoting_is_a_parameter_of_clean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("data/raw/mine/log/t.tsv")
    path.parent.mkdir(parents=True)
    path.write_text('q\ta\n"one\tx\ntwo"\ty\n')
    files = dict.fromkeys(("train", "validation", "test"), "log/t.tsv")
    labels = {"file": "log/t.tsv", "response": "a", "label": "q", "classes": [['"one'], ['two"']]}
    clean = {"format": "table", "options": {**OPTIONS, **files}, "labels": {"kinds": labels}}
    project(tmp_path, {}, clean)
    assert "t.tsv, line 2: a cell begins with a double quote" in error_line(main)
    project(tmp_path, {}, {**clean, "quoting": {"tsv": "none"}})
    assert run(main).exit_code == 0
    assert [row["prompt"] for row in schema.rows(Path("data/clean/mine/train.parquet"))] == ['"one', 'two"']
    assert schema.count(Path("data/clean/mine/labels/kinds.parquet")) == 2
    project(tmp_path, {}, {**clean, "quoting": {"tsv": "all"}})
    assert "clean.quoting.tsv is 'all'; known: lines, line, none" in error_line(main)
