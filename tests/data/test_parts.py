"""Pieces of rows that are kept while a stage computes."""

from __future__ import annotations

import pyarrow as pa
import pytest

from alol.base.work import Governor, Work
from alol.data import parts
from alol.data.parts import Parts

COLUMNS = pa.schema([("double", pa.int64())])


@pytest.mark.parametrize("due", [True, False])
def test_no_more_rows_wait_in_memory_than_the_limit(tmp_path, monkeypatch, due):
    """Also of a function that is so fast that writing never pays, whose rows are computed again after a kill."""
    monkeypatch.setattr(parts, "WAITING", 10)
    monkeypatch.setattr(Governor, "due", lambda self, size: due)
    ours, waiting = Parts(Work(tmp_path, 1.0), COLUMNS), []
    for number in range(25):
        ours.add(number, [{"double": number}] * 4)
        waiting.append(len(ours._pending))
    assert max(waiting) < 10 + 4
    assert bool(list(tmp_path.glob("*.parquet"))) == due


def test_what_other_processes_need_is_written(tmp_path, monkeypatch):
    """Though writing takes longer than computing."""
    monkeypatch.setattr(parts, "WAITING", 10)
    monkeypatch.setattr(Governor, "due", lambda self, size: False)
    ours = Parts(Work(tmp_path, 1.0), COLUMNS)
    for number in range(1, 10, 2):
        ours.add(number, [{"double": number}] * 4, needed=True)
    ours.write()
    assert Parts(Work(tmp_path, 1.0), COLUMNS).numbers == {1, 3, 5, 7, 9}
