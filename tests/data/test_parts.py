"""Pieces of rows that are kept while a stage computes."""

from __future__ import annotations

import pyarrow as pa
import pytest

from alol.base.work import Work
from alol.data import parts
from alol.data.parts import Parts

COLUMNS = pa.schema([("double", pa.int64())])


def double(start: int, rows: range) -> list[dict[str, int]]:
    return [{"double": 2 * row} for row in rows]


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_no_more_rows_wait_in_memory_than_the_limit(tmp_path, monkeypatch, seconds):
    """Also of a function that is so fast that writing never pays, whose rows are computed again after a kill."""
    monkeypatch.setattr(parts, "WAITING", 10)
    monkeypatch.setattr(parts, "SECONDS", seconds)
    ours, waiting, found = Parts(Work(tmp_path, 1.0), COLUMNS), [], []
    for _, rows in ours.through(lambda: parts.pieces([range(100)], 4), double):
        waiting.append(len(ours._pending))
        found += rows
    assert found == [{"double": 2 * row} for row in range(100)]
    assert max(waiting) < 10 + 4
    assert bool(list(tmp_path.glob("*.parquet"))) == (seconds == 0)


def test_what_other_processes_need_is_written(tmp_path, monkeypatch):
    """Though writing takes longer than computing."""
    monkeypatch.setattr(parts, "WAITING", 10)
    monkeypatch.setattr(parts, "SECONDS", 1e9)

    class Second:
        num_processes, process_index, is_main_process = 2, 1, False

        def wait_for_everyone(self) -> None:
            pass

    source = lambda: parts.pieces([range(40)], 4)  # noqa: E731
    assert list(Parts(Work(tmp_path, 1.0), COLUMNS).through(source, double, Second())) == []
    assert Parts(Work(tmp_path, 1.0), COLUMNS).rows == 20  # of pieces 1, 3, 5, 7 and 9
