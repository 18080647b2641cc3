"""What a name of a task's file means: files, patterns, folders, saved data sets; and .arrow files and JSON tables."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from alol.base.errors import InputError
from alol.data import rawfiles, rawjson, shards
from tests.raw_project import write_lines


def make(folder: Path, *names: str) -> None:
    """Files of one row each: its number."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".arrow":
            arrow(path, [{"n": i}])
        else:
            write_lines(path, [{"n": i}])


def arrow(path: Path, rows: list[dict], file: bool = False) -> None:
    table = pa.Table.from_pylist(rows)
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def save(folder: Path, *names: str, **state: object) -> None:
    """A data set as `datasets.save_to_disk` lays it out."""
    make(folder, *names)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], **state}))


def numbers(folder: Path, name: str) -> list[int]:
    return [record.values["n"] for record in shards.records(shards.find(folder, name))]


@pytest.mark.parametrize(
    ("files", "name", "expected"),
    [
        (["a/x.jsonl"], "a/x.jsonl", [0]),
        (["a/x.jsonl"], "a", [0]),
        (
            ["train-00001-of-00002.jsonl", "train-00000-of-00002.jsonl", "test-00000-of-00001.jsonl"],
            "train-*.jsonl",
            [1, 0],
        ),
        (["b/one.jsonl", "a/two.jsonl", "a/.hidden.jsonl"], "**/*.jsonl", [1, 0]),
        (["d/b.jsonl", "d/a.jsonl", "d/README.md", "d/sub/c.jsonl", "d/.x/y.jsonl"], "d", [1, 0, 3]),
        (["chats-2023.jsonl", "chats-2024.jsonl"], "chats-2023.jsonl", [0]),
        (["a[1].jsonl", "a1.jsonl"], "a[1].jsonl", [0]),
        (["x-00000-of-00002.arrow", "x-00001-of-00002.arrow"], "x-*", [0, 1]),
    ],
)
def test_a_name_means_these_files_in_this_order(tmp_path, files, name, expected):
    make(tmp_path, *files)
    assert numbers(tmp_path, name) == expected


def test_a_saved_data_set_is_read_in_its_own_order(tmp_path):
    save(tmp_path / "saved", "data-00001-of-00002.arrow", "data-00000-of-00002.arrow")
    assert numbers(tmp_path, "saved") == [0, 1]


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        (
            ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"],
            "train-00000-of-00002.jsonl",
            r"is one of 2 shards; write train-\*-of-00002\.jsonl, which takes all of them",
        ),
        (["d/part-0000.jsonl", "d/part-0001.jsonl"], "d/part-0001.jsonl", r"one of 2 shards; write d/part-\*\.jsonl"),
        (["d/train.jsonl", "d/test.jsonl"], "d", r"'d' means files of several splits \(test, train\)"),
        (["d/train/x.jsonl", "d/dev/x.jsonl"], "d/**/*.jsonl", r"several splits \(train, validation\)"),
        (
            ["d/a.jsonl", "d/a.csv"],
            "d",
            r"'d' means files of several kinds \(\.csv, \.jsonl\); name one, such as \*\.csv",
        ),
        (["d/a.txt"], "d", r"holds no file of a known kind; known: \.jsonl"),
        (["a.jsonl"], "b-*.jsonl", r"b-\*\.jsonl: no file has such a name"),
        (["a.jsonl"], "**a.jsonl", r"has \*\* beside other letters"),
        (["a.jsonl"], "../*", "is not a path below"),
        (["a.jsonl"], "b.jsonl", r"b\.jsonl is missing"),
    ],
)
def test_a_name_that_means_less_or_more_than_one_thinks_is_refused(tmp_path, files, name, message):
    make(tmp_path, *files)
    with pytest.raises(InputError, match=message):
        shards.find(tmp_path, name)


def test_what_is_wrong_with_a_saved_data_set_is_said(tmp_path):
    save(tmp_path / "all/train", "data-00000-of-00001.arrow")
    (tmp_path / "all/dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(InputError, match=r"holds several splits; name one of them: all/train$"):
        shards.find(tmp_path, "all")
    save(tmp_path / "chosen", "data-00000-of-00001.arrow", _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(InputError, match=r"save it again after flatten_indices\(\)"):
        shards.find(tmp_path, "chosen")
    for state in ("[]", '{"_data_files": [{"filename": "../x.arrow"}]}', '{"_data_files": []}'):
        (tmp_path / "chosen/state.json").write_text(state)
        with pytest.raises(InputError, match=r"state\.json: must name the data set's files"):
            shards.find(tmp_path, "chosen")
    (tmp_path / "chosen/state.json").write_text('{"_data_files": [{"filename": "lost.arrow"}]}')
    with pytest.raises(InputError, match=r"lost\.arrow is missing"):
        shards.find(tmp_path, "chosen")


def test_missing_shards_are_a_warning(tmp_path, caplog):
    make(tmp_path, "t-00000-of-00003.jsonl", "t-00002-of-00003.jsonl")
    assert numbers(tmp_path, "t-*") == [0, 1]
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}/t-00000-of-00003.jsonl: 2 of 3 shards are here"
    ]


@pytest.mark.parametrize("file", [True, False])
def test_arrow_rows_and_damage(tmp_path, file, monkeypatch):
    monkeypatch.setattr(rawfiles, "BATCH_ROWS", 2)
    path, rows = tmp_path / "t.arrow", [{"m": [{"role": "user", "content": str(i)}]} for i in range(5)]
    arrow(path, rows, file)
    found = list(rawfiles.records(path))
    assert [record.values for record in found] == rows
    assert found[4].where == f"{path}, row 5"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"t\.arrow is not a readable Arrow file"):
        list(rawfiles.records(path))


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_table_is_rows_with_their_keys(tmp_path, indent, monkeypatch):
    monkeypatch.setattr(rawjson, "CHUNK", 7)
    path = tmp_path / "t.json"
    path.write_text(json.dumps({'a "1"': {"n": 1}, "b": {"n": {"m": []}}, "c": {"id": 7}}, indent=indent))
    rows = [{"id": 'a "1"', "n": 1}, {"id": "b", "n": {"m": []}}, {"id": 7}]
    assert [record.values for record in rawfiles.records(path)] == rows


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": {"n": 1}}\n{"a": {"n": 2}}\n', [{"a": {"n": 1}}, {"a": {"n": 2}}]),
        ('{"a": {"n": 1}, "b": 2}\n', [{"a": {"n": 1}, "b": 2}]),
        ('{"a": 1}\n', [{"a": 1}]),
    ],
)
def test_lines_that_begin_with_a_table_stay_lines(tmp_path, content, expected):
    (tmp_path / "t.json").write_text(content)
    assert [record.values for record in rawfiles.records(tmp_path / "t.json")] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": {"n": 1}, "b": {"n"', "item 2: not valid JSON, perhaps cut off"),
        ('{"a": {"n": 1},\n "b": 5}', "item 2: must be a JSON object, but is 5"),
    ],
)
def test_a_damaged_json_table_is_named_with_the_place(tmp_path, content, message):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(InputError, match=message):
        list(rawfiles.records(tmp_path / "t.json"))


def test_numbers_of_csv_columns(tmp_path):
    (tmp_path / "a.csv").write_text("s,code,mixed,empty\n0.5,007,1,\n-3,1,x,\n,2,2,\n")
    (tmp_path / "b.csv").write_text("s,code,mixed,empty\n1e2,1,1,\n")
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert shards.numeric_columns(paths) == {"s"}
    assert shards.numeric_columns(paths, ["code"]) == set()
    assert shards.numeric_columns([tmp_path / "t.jsonl"]) == set()
    found = [record.values["s"] for record in shards.records(paths, frozenset({"s"}))]
    assert found == [0.5, -3, None, 100.0]
