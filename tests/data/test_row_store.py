"""Rows beyond memory: what is taken, what is left out, and what happens to the file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from alol.data import row_store, schema
from alol.data.row_store import Place, RowStore, Source

COLUMNS = pa.schema([("ids", pa.list_(pa.int32())), ("reward", pa.float32()), ("text", pa.string())])


def tables(sizes=(3, 0, 2, 4)):
    """Tables of so many rows: row i has the list [i] * i, the reward i / 2 and a text."""
    start = 0
    for size in sizes:
        rows = [{"ids": [i] * i, "reward": i / 2, "text": f"t{i}"} for i in range(start, start + size)]
        start += size
        yield pa.Table.from_pylist(rows, COLUMNS)


def expected(rows):
    return {"ids": [[i] * i for i in rows], "reward": [i / 2 for i in rows], "text": [f"t{i}" for i in rows]}


def maps(folder: Path) -> list[str]:
    """The files below a folder that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line.split(maxsplit=5)[5] for line in lines if str(folder) in line]


@pytest.fixture(params=["memory", "file"])
def place(request, monkeypatch, tmp_path):
    if request.param == "file":
        monkeypatch.setattr(row_store, "LIMIT", 0)
        monkeypatch.setattr(row_store, "BATCH", 60)  # bytes: several batches
    return Place(tmp_path)


def test_rows_are_taken_by_number_in_any_order(place):
    rows = row_store.keep(tables(), place)
    assert len(rows) == 9
    assert rows.take([8, 0, 3, 3]).to_pydict() == expected([8, 0, 3, 3])
    assert rows.take(range(9)).to_pydict() == expected(range(9))
    assert rows.take([]).to_pydict() == expected([])
    assert rows.lengths("ids").tolist() == list(range(9))
    assert rows.column("reward").tolist() == [i / 2 for i in range(9)]
    assert [len(chunk) for chunk in rows.take([1, 8]).itercolumns()] == [2, 2, 2]
    with pytest.raises(IndexError):
        rows.take([9])


def test_the_file_has_no_name_once_it_is_open(monkeypatch, tmp_path):
    monkeypatch.setattr(row_store, "LIMIT", 0)
    rows = row_store.keep(tables(), Place(tmp_path / "unfinished"))
    assert list((tmp_path / "unfinished").iterdir()) == []
    if Path("/proc/self/maps").exists():
        assert maps(tmp_path) == [f"{tmp_path}/unfinished/rows.arrow (deleted)"]
    assert rows.take([4]).to_pydict() == expected([4])


def test_a_temporary_folder_does_where_there_is_no_work(monkeypatch):
    monkeypatch.setattr(row_store, "LIMIT", 0)
    assert row_store.keep(tables(), Place()).take([5, 2]).to_pydict() == expected([5, 2])


def test_a_table_without_rows_has_its_columns(place):
    rows = row_store.keep(tables([0]), place)
    assert (len(rows), rows.take([]).to_pydict()) == (0, {"ids": [], "reward": [], "text": []})
    assert (rows.column("reward").tolist(), rows.lengths("ids").tolist()) == ([], [])


def test_a_source_holds_the_asked_columns_of_the_rows_that_are_kept(place):
    asked = []

    def read(names):
        asked.append(tuple(names))
        return (table.select(list(names)) for table in tables())

    source = Source(read, 9, place)
    numbers = source.numbers("reward")["reward"]
    assert (numbers.dtype, numbers.tolist()) == (np.float32, [i / 2 for i in range(9)])
    rows = source.rows(("reward", "ids"), numbers > 1)
    assert asked == [("reward",), ("reward", "ids")]
    assert rows.take(range(len(rows))).to_pydict() == {
        "reward": [1.5, 2.0, 2.5, 3.0, 3.5, 4.0], "ids": [[i] * i for i in range(3, 9)],
    }  # fmt: skip


def test_a_parquet_source_reads_nothing_but_the_asked_columns(tmp_path):
    row = {"prompt_id": "a", "rank": 1, "reward": 0.5, "raw_reward": 0.5, "value": 0.25, "advantage": 0.25}
    rows = [{**row, "prompt_ids": [1], "response_ids": [2, 3], "ref_logp": [-1.0, -2.0]}] * 3
    schema.write(tmp_path / "a.parquet", schema.ADVANTAGES, rows)
    schema.write(tmp_path / "none.parquet", schema.ADVANTAGES, [])
    source = Source.parquet(tmp_path / "a.parquet", Place())
    assert source.rows(["response_ids"]).take([2]).to_pydict() == {"response_ids": [[2, 3]]}
    none = Source.parquet(tmp_path / "none.parquet", Place())
    assert {name: len(values) for name, values in none.numbers("rank", "value").items()} == {"rank": 0, "value": 0}
    assert len(none.rows(["prompt_ids"], np.zeros(0, dtype=bool))) == 0


def test_lists_of_more_values_than_an_arrow_array_holds():
    """2^31 values in all: what joins the column raises ArrowInvalid, offset overflow while concatenating arrays."""
    values = pa.array(np.zeros(2**28, dtype=np.int8))  # one buffer, which nine batches share
    lists = pa.ListArray.from_arrays(pa.array([0, 2**27, 2**28], pa.int32()), values)
    batch = pa.record_batch({"ids": lists, "number": pa.array([1.0, 2.0])})
    whole = pa.Table.from_batches([batch] * 9)
    with pytest.raises(pa.ArrowInvalid, match="offset overflow"):
        whole.combine_chunks()["ids"].combine_chunks()
    rows = RowStore.of(whole)
    assert (len(rows), int(rows.lengths("ids").sum())) == (18, 9 * 2**28)
    assert rows.take([17, 0])["number"].to_pylist() == [2.0, 1.0]
    kept = Source.of(whole.select(["number"])).rows(["number"], np.arange(18) % 2 == 1)
    assert kept.column("number").tolist() == [2.0] * 9


class Process:
    """One of two processes of a machine, as accelerate shows it; `waited` is called at a barrier."""

    num_processes, process_index = 2, 5

    def __init__(self, rank, waited):
        self.local_process_index, self.is_local_main_process, self.wait_for_everyone = rank, rank == 0, waited


def test_one_process_of_a_machine_writes_and_the_others_read_its_file(monkeypatch, tmp_path):
    """A file that a killed run left is gone before anybody looks for it, and the new one after all have it open."""
    stale = tmp_path / "rows-5.arrow"
    stale.write_bytes(b"of a killed run")
    opened = []

    def other():
        """At the first barrier the second process begins; it finds the file once the first has written it."""
        if opened:
            return
        assert not stale.exists()
        opened.append(None)

    rows = row_store.keep(tables(), Place(tmp_path, Process(0, other)))
    assert rows.take([7]).to_pydict() == expected([7])
    assert list(tmp_path.iterdir()) == []


def test_the_other_processes_wait_for_the_file_and_go_through_no_table(monkeypatch, tmp_path):
    path = tmp_path / "rows-4.arrow"

    def write(seconds):
        assert not path.exists()
        row_store._write(path, tables())

    monkeypatch.setattr(row_store, "time", SimpleNamespace(sleep=write))
    rows = row_store.keep(iter(()), Place(tmp_path, Process(1, lambda: None)))
    assert rows.take([7, 1]).to_pydict() == expected([7, 1])
    assert path.exists()  # it is the first process's to remove


def test_a_failure_leaves_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(row_store, "LIMIT", 0)

    def failing():
        yield from tables()
        raise ValueError("the source is at fault")

    with pytest.raises(ValueError, match="the source is at fault"):
        row_store.keep(failing(), Place(tmp_path))
    assert list(tmp_path.iterdir()) == []
