"""Pieces of tables in this process: order, what is loaded when, and errors that other processes send."""

from __future__ import annotations

import copy
from functools import partial

import pytest

from alol.base import work
from alol.base.errors import InputError, ParameterError
from alol.compute.shards import Bar, Pool
from alol.data import schema
from alol.data.parts import Parts, pieces
from tests.compute import recipes


@pytest.fixture
def loads(tmp_path):
    """A folder with a file for each time that models were loaded, and a recipe that loads them."""
    folder = tmp_path / "loads"
    folder.mkdir()
    return folder, partial(recipes.noted, folder)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Unfinished work that is written at once."""
    monkeypatch.setattr(work.Governor, "due", lambda self, size, last=False: True)
    (tmp_path / "work").mkdir()
    return work.Work(tmp_path / "work", 0)


def mapped(pool, store, compute=recipes.doubled, rows=range(7)):
    return list(pool.map(lambda: pieces([rows], 3), compute, store, Bar(len(rows), "rows", "row")))


def test_pieces_come_in_order_and_models_are_loaded_once(loads, kept):
    folder, recipe = loads
    with Pool(recipe) as pool:
        assert not list(folder.iterdir())
        first = mapped(pool, Parts(kept.of("one"), recipes.COLUMNS))
        second = mapped(pool, Parts(kept.of("two"), recipes.COLUMNS))
    assert [list(piece) for piece, _ in first] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [row["double"] for _, rows in first for row in rows] == [0, 2, 4, 6, 8, 10, 12]
    assert len(list(folder.iterdir())) == 1
    assert second == first


def test_no_model_is_loaded_for_what_is_stored(loads, kept):
    folder, recipe = loads
    whole = mapped(Pool(recipe), Parts(kept, recipes.COLUMNS))
    assert mapped(Pool(lambda: 1 / 0), Parts(kept, recipes.COLUMNS)) == whole
    (kept.folder / "000000001.parquet").unlink()
    again = mapped(Pool(recipe), Parts(kept, recipes.COLUMNS))
    assert [rows == before for (_, rows), (_, before) in zip(again, whole, strict=True)] == [True, False, True]
    assert len(list(folder.iterdir())) == 2


def test_a_file_with_pieces_of_any_order_is_read_once(kept, monkeypatch):
    writer = Parts(kept, recipes.COLUMNS)
    monkeypatch.setattr(work.Governor, "due", lambda self, size, last=False: False)
    for number in (5, 0, 2):
        writer.add(number, [{"double": number, "by": ""}])
    writer.write()
    reader, opened, table = Parts(kept, recipes.COLUMNS), [], schema.table
    monkeypatch.setattr(schema, "table", lambda path, columns: opened.append(path.name) or table(path, columns))
    assert [reader.stored(number) for number in (0, 1, 2, 5)] == [
        [{"double": 0, "by": ""}], None, [{"double": 2, "by": ""}], [{"double": 5, "by": ""}],
    ]  # fmt: skip
    assert opened == ["000000005.parquet"]


def test_what_others_store_meanwhile_is_seen_and_counted_once(kept):
    one, other = Parts(kept, recipes.COLUMNS), Parts(kept, recipes.COLUMNS)
    one.add(0, [{"double": 0, "by": "one"}])
    other.add(1, [{"double": 2, "by": "other"}] * 2)
    assert (one.rows, one.look(), one.look(), one.rows) == (1, 2, 0, 3)
    assert one.numbers == {0, 1}


@pytest.mark.parametrize("error", [InputError("row 3 is wrong"), ParameterError("generate.stop", "is wrong")])
def test_an_error_that_another_process_sends_is_the_same(error):
    error.add_note("file: data.parquet")
    found = copy.copy(error)  # from what Ray sends too: what `__reduce_ex__` returns
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))
    assert found.__notes__ == ["file: data.parquet"]
