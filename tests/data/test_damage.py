"""Files of the pipeline's own that were cut, hurt or swapped: whoever reads them says so in one line."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from alol.base import faults
from alol.base.errors import InputError
from alol.data import schema
from alol.training import value_head
from tests import small
from tests.data import fuzz_tables

SCORED = schema.scored(schema.RESPONSES, ["good"])
ROWS = [
    {
        "prompt_id": f"p{i}", "subset": "s", "prompt": f"Prompt {i}", "cuts": [0, 2], "turns": None,
        "context": {"k": i}, "rank": 0, "response": f"a text of its own, {i}", "reward_good": i / 100,
    }
    for i in range(100)
]  # fmt: skip
HEAD = value_head.ValueHead(8, 2, 0.0, "linear", (0.0, 1.0))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in which every stage has run; tests leave it as it was."""
    return small.made(tmp_path_factory.mktemp("project"), [*small.BEFORE_TRAIN, *small.FROM_TRAIN])


@pytest.fixture
def here(project, monkeypatch):
    monkeypatch.chdir(project)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "train.parquet"
    schema.write(path, SCORED, ROWS)
    assert schema.rows(path, SCORED) == ROWS
    return path


def rewritten(change):
    """The table with other columns, written anew: its checksums are right."""

    def damage(path: Path) -> None:
        pq.write_table(change(pq.read_table(path)), path, write_page_checksum=True)

    return damage


def with_column(name: str, values: pa.Array):
    return rewritten(lambda table: table.set_column(table.column_names.index(name), name, values))


def bytes_changed(change):
    def damage(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return damage


def inside_a_column(path: Path) -> None:
    """One byte of the responses, which a page that is not compressed holds as they are."""
    pq.write_table(pq.read_table(path), path, write_page_checksum=True, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"a text of its own, 50", b"a text of its own, 59"))


def as_texts(values: list[bytes]) -> pa.Array:
    """An array that says it holds texts, whatever bytes they are."""
    made = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(made), made.buffers())


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DEEP = '{"a":' + "[" * 100_000
TABLES = [
    (bytes_changed(lambda data: b""), ""),
    (bytes_changed(lambda data: b"garbage"), ""),
    (bytes_changed(lambda data: data[: len(data) // 2]), ""),
    (bytes_changed(lambda data: data[:-4]), ""),
    (bytes_changed(lambda data: data[: len(data) // 2] + data[len(data) // 2 + 1 :]), ""),
    (bytes_changed(lambda data: b"PAR1\xff\xff\xff\xff\xff\xff\xff\x7fPAR1"), ""),
    (inside_a_column, "CRC"),
    (rewritten(lambda table: pa.table({"other": [1, 2]})), "it lacks the columns prompt_id, subset, prompt, "),
    (rewritten(lambda table: table.drop(["reward_good"])), "it lacks the columns reward_good"),
    (rewritten(lambda table: table.drop(["rank"])), "it lacks the columns rank"),
    (with_column("rank", pa.array(["0"] * 100)), "its column rank is of the type string, not int32"),
    (with_column("reward_good", pa.array(["0"] * 100)), "its column reward_good is of the type string, not double"),
    (with_column("response", as_texts([b"\xff\xfe"] * 100)), "UTF8"),
    (with_column("response", pa.array([None] * 100, pa.string())), "its column response has empty cells"),
    (with_column("context", pa.array(["no json"] * 100)), "Expecting value"),
    (with_column("context", pa.array(["[]"] * 100)), "a context is no JSON object"),
    (with_column("context", pa.array([DEEP] * 100)), "recursion"),
]


@pytest.mark.parametrize(("damage", "why"), TABLES)
def test_a_table_that_is_damaged_or_another_is_one_line(file, damage, why):
    damage(file)
    with pytest.raises(InputError) as caught:
        schema.rows(file, SCORED)
    line = str(caught.value)
    assert line.startswith(f"{file} is damaged or not what this version writes (")
    assert why in line
    assert "\n" not in line


def test_every_reader_of_tables_refuses_a_cut_one(file):
    bytes_changed(lambda data: data[:-100])(file)
    for read in (schema.rows, schema.table, schema.count, lambda path: list(schema.read(path, ["prompt"]))):
        with pytest.raises(InputError, match="is damaged or not what this version writes"):
            read(file)


def test_a_folder_in_a_tables_place_is_one_line(file):
    folder(file)
    with pytest.raises((InputError, OSError)) as caught:
        schema.rows(file)
    assert str(file) in faults.line(caught.value, "annotate")


def test_a_table_without_checksums_is_read(file):
    pq.write_table(pq.read_table(file), file)
    assert schema.rows(file, SCORED) == ROWS


def saved_head(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(HEAD.state_dict(), folder / "head.safetensors")
    shape = {"width": 8, "heads": 2, "head": "linear", "bounds": [0.0, 1.0], "epochs": 1, **changes}
    (folder / "head.json").write_text(json.dumps(shape))
    return folder


def tensors(change):
    def damage(folder: Path) -> None:
        found = load_file(folder / "head.safetensors")
        change(found)
        save_file(found, folder / "head.safetensors")

    return damage


def weights(change):
    return lambda folder: bytes_changed(change)(folder / "head.safetensors")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (weights(lambda data: b""), "head.safetensors is damaged"),
        (weights(lambda data: data[:-1]), "head.safetensors is damaged"),
        (weights(lambda data: b"\xff" * 8 + data[8:]), "head.safetensors is damaged"),
        (lambda folder: (folder / "head.safetensors").unlink(), "head.safetensors is damaged"),
        (tensors(lambda found: found.pop("query")), 'Missing key(s) in state_dict: "query"'),
        (tensors(lambda found: found.update(more=torch.zeros(1))), "Unexpected key(s)"),
        (tensors(lambda found: found.update(query=torch.zeros(9))), "size mismatch for query"),
        (
            tensors(lambda found: found.update(query=torch.full((8,), torch.nan))),
            "query holds numbers that are not fin",
        ),
        (lambda folder: saved_head(folder, width=1 << 20), "size mismatch for query"),
        (lambda folder: saved_head(folder, width=1 << 62), "head.json is damaged"),
        (lambda folder: saved_head(folder, heads=0), "head.json is damaged"),
        (lambda folder: saved_head(folder, width=-8), "head.json is damaged"),
        (lambda folder: saved_head(folder, head="tree"), "head.json is damaged"),
    ],
)
def test_a_value_head_that_is_damaged_or_another_is_one_line(tmp_path, damage, why):
    folder = saved_head(tmp_path / "value")
    loaded = value_head.load(folder)
    assert all(torch.equal(tensor, HEAD.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    damage(folder)
    with pytest.raises(InputError) as caught:
        value_head.load(folder)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


CONTENTS = [b"", b"{}", b"[]", b"null", b'{"a": NaN}', b'{"a": "\xff"}', b"[" * 100_000]


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: content[:12])
def test_json_of_the_pipeline_that_holds_something_else_is_one_line(here, content):
    for subject in fuzz_tables.subjects():
        if subject.kind != "JSON":
            continue
        whole = subject.file.read_bytes()
        for data in {content, whole[: len(whole) // 2]}:
            subject.file.write_bytes(data)
            try:
                assert fuzz_tables.outcome(subject, None) == "refused", f"{subject.file}: {data[:20]!r}"
            finally:
                subject.file.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("annotate", "models/demo/reward_model/informative/tfidf.json"),
        ("rollout", "models/demo/reference/policy.json"),
        ("rollout", "data/clean/demo/test.parquet"),
        ("value", "data/baselines/demo/validation.parquet"),
        ("advantage", "models/demo/value/head.json"),
        ("advantage", "data/annotated/demo/train.parquet"),
        ("train", "data/advantages/demo/train.parquet"),
        ("evaluate", "models/demo/a_lol/policy.json"),
        ("aggregate", "models/demo/a_lol/training.json"),
        ("aggregate", "models/demo/value/heldout.json"),
        ("aggregate", "metrics/value.json"),
        ("aggregate", "data/annotated/demo/train.parquet"),
    ],
)
def test_a_stage_refuses_what_an_earlier_one_did_not_write(here, name, file):
    whole = Path(file).read_bytes()
    Path(file).write_bytes(b"{}")
    try:
        assert f"{file} is damaged or not what this version writes (" in small.error(name)
    finally:
        Path(file).write_bytes(whole)


def test_one_changed_byte_is_refused_or_changes_nothing_where_there_are_checksums(here):
    draw, found = random.Random(1), {kind: Counter() for kind in ("Parquet", "safetensors", "JSON")}
    for subject in fuzz_tables.subjects():
        count = 20 if subject.kind == "Parquet" else 6
        found[subject.kind].update(what for _, what in fuzz_tables.changed(subject, count, draw))
    assert set(found["Parquet"]) == {"refused", "equal"}, found
    assert set(found["safetensors"]) | set(found["JSON"]) <= {"refused", "equal", "other"}, found


def test_a_table_in_place_of_another_is_one_line(here, tmp_path):
    whole = Path("data/annotated/demo/train.parquet")
    shutil.copy(whole, tmp_path)
    shutil.copy("data/clean/demo/labels/ratings.parquet", whole)
    try:
        assert "it lacks the columns prompt_id, subset, cuts, turns, rank, " in small.error("advantage")
    finally:
        shutil.copy(tmp_path / whole.name, whole)
