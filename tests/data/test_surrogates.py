"""Texts that UTF-8 cannot hold (half of a surrogate pair): one line with the file and the row, nothing written."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alol.base.errors import InputError
from alol.data import rawfiles, schema
from alol.data.clean import checked
from alol.data.formats import Format, _formats, table
from stages.clean import main
from tests.data.test_table import OPTIONS
from tests.raw_project import error_line, project
from tests.reward_project import row

HALF = "\ud83d"


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = Path("data/raw/mine/log")
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["q", "a", "n", "id", "label", "deep", "key"])
@pytest.mark.parametrize("kind", ["t.jsonl", "t.json"])
def test_a_text_of_json_is_named_with_its_file_and_row(raw, name, kind):
    good = '{"q": "p%d", "a": "r", "n": 1, "id": "%d", "label": "x", "deep": [{"k": "v"}]}'
    bad = {
        "q": ('"p2"', '"\\ud83d"'),
        "a": ('"r"', '"r \\uDE00\\ud83d"'),
        "n": ("1,", '"\\udfff",'),
        "id": ('"2"', '"2\\ud800"'),
        "label": ('"x"', '"\\ud800x"'),
        "deep": ('"v"', '["\\ud800"]'),
        "key": ('"k"', '"\\ud800"'),
    }
    lines = [good % (1, 1), (good % (2, 2)).replace(*bad[name]), good % (3, 3)]
    text, place = ("\n".join(lines), "line") if kind == "t.jsonl" else (f"[{','.join(lines)}]", "item")
    (raw / kind).write_text(text)
    files = dict.fromkeys(("train", "validation", "test"), f"log/{kind}")
    options = {**OPTIONS, **files, "id": "id", "context": {"n": "n", "deep": "deep"}}
    labels = {"file": f"log/{kind}", "response": "a", "label": "label", "classes": [["x"], ["y"]]}
    project(raw.parents[3], {}, {"format": "table", "options": options, "labels": {"kinds": labels}})
    assert f"log/{kind}, {place} 2: has half of a surrogate pair" in error_line(main)
    assert not Path("data/clean/mine").exists()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("prompt_id", HALF),
        ("prompt", f"p {HALF}"),
        ("response", f"{HALF}{HALF}"),
        ("subset", f"{HALF} test"),
        ("context", {"a": [{"b": HALF}]}),
        ("context", {HALF: 1}),
        ("turns", [{"role": "human", "text": HALF}]),
        ("turns", [{"role": HALF, "text": "p"}]),
    ],
)
def test_a_text_that_a_format_builds_is_named_with_its_row(raw, monkeypatch, column, value):
    rows = [row("one", "a"), {**row("two", "b"), column: value}, row("three", "c")]
    splits = dict.fromkeys(schema.SPLITS, rows)
    built = Format(table.Options, lambda folder, options: {name: iter(splits[name]) for name in splits}, {})
    monkeypatch.setitem(_formats(), "table", built)
    project(raw.parents[3], {}, {"format": "table", "options": OPTIONS})
    line = error_line(main)
    assert f"data/clean/mine/train.parquet, row 2 (prompt {rows[1]['prompt_id']!a}): its {column} has half of" in line
    assert not Path("data/clean/mine").exists()


def test_generated_texts_and_those_of_late_rows_are_named(tmp_path):
    answers = [{**row(f"p{i}", "a"), "response": HALF if i == 3000 else "a"} for i in range(3001)]
    for one in answers:
        del one["rank"]
    with pytest.raises(InputError, match=r"answers.parquet, row 3001 \(prompt 'p3000'\): its response has half"):
        schema.write(tmp_path / "answers.parquet", schema.ROLLOUTS, answers)
    labels = [{"prompt": "", "response": HALF, "context": {}, "label": 1}]
    with pytest.raises(InputError, match=r"labels.parquet, row 1 \(prompt ''\): its response has half"):
        schema.write(tmp_path / "labels.parquet", schema.LABELLED, labels)
    assert list(tmp_path.iterdir()) == []


def test_whole_pairs_and_what_only_looks_like_a_half_are_kept(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": "\\ud83d\\ude00", "b": "\\\\ud83d"}\n')
    assert [record.values for record in rawfiles.records(tmp_path / "t.jsonl")] == [{"a": "😀", "b": "\\ud83d"}]
    assert [one["prompt"] for one in checked([row("😀", "a")], "train", None)] == ["😀"]


@pytest.mark.parametrize("store", [True, False])
def test_a_parquet_column_whose_name_is_no_text_is_one_line(tmp_path, store):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"qqqq": ["x"]}), buffer, store_schema=store)
    (tmp_path / "t.parquet").write_bytes(buffer.getvalue().replace(b"qqqq", b"q\xff\xfeq"))
    with pytest.raises(InputError, match=r"t.parquet is not a readable Parquet file \('utf-8' codec"):
        list(rawfiles.records(tmp_path / "t.parquet"))
