"""Tables that are longer than a batch, and than a row group."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from alol.data import schema

COLUMNS = pa.schema([("prompt_id", pa.string()), ("rank", pa.int32())])


def test_a_row_group_holds_whole_batches_and_is_read_batch_by_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "BATCH_ROWS", 3)
    monkeypatch.setattr(schema, "GROUP_BYTES", 90)  # a batch: 3 x (2 bytes of text, 4 of its offset, 4 of the rank)
    rows = [{"prompt_id": f"{i:02}", "rank": i} for i in range(20)]
    schema.write(path := tmp_path / "a.parquet", COLUMNS, rows)
    found = pq.ParquetFile(path).metadata
    assert [found.row_group(i).num_rows for i in range(found.num_row_groups)] == [9, 9, 2]
    batches = list(schema.read(path, ["prompt_id", "rank"]))
    assert [len(batch) for batch in batches] == [3, 3, 3, 3, 3, 3, 2]
    assert [row for batch in batches for row in batch] == rows
    assert [len(batch) for batch in schema.tables(path, ["rank"])] == [3, 3, 3, 3, 3, 3, 2]
