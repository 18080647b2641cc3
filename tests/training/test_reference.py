"""The reference's examples: encoded a row group at a time, and what is kept of them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from alol.data import row_store, schema
from alol.data.row_store import Place
from alol.training import reference


class Counting:
    """An encoder: one token for a letter; it notes how many rows it was given at a time."""

    def __init__(self):
        self.seen = []

    def prompts(self, rows):
        self.seen.append(len(rows))
        return [[ord(letter) for letter in row["prompt"]] for row in rows]

    def responses(self, texts):
        return [[ord(letter) for letter in text] for text in texts]


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """Seven rows in row groups of three."""
    monkeypatch.setattr(schema, "BATCH_ROWS", 3)
    row = {"subset": "", "cuts": [], "turns": [], "context": {}}
    rows = [{**row, "prompt_id": str(i), "prompt": "ab", "rank": i % 2, "response": "c" * i} for i in range(7)]
    schema.write(tmp_path / "train.parquet", schema.RESPONSES, rows)
    return tmp_path / "train.parquet"


def test_the_reference_encodes_a_row_group_at_a_time(clean):
    encoder = Counting()
    tables = reference._token_ids(clean, encoder, "all")
    assert [next(tables).num_rows for _ in range(2)] == [0, 3]
    assert encoder.seen == [3]
    rows = row_store.keep(reference._token_ids(clean, encoder, "preferred"), Place())
    assert rows.take(range(len(rows))).to_pydict() == {
        "prompt_ids": [[97, 98]] * 4, "response_ids": [[99] * i for i in (0, 2, 4, 6)],
    }  # fmt: skip
    assert {field.type for field in rows.schema} == {pa.list_(pa.int32())}


def test_a_scratch_base_learns_prompt_and_response_as_one_text(clean, tokenizer):
    tables = reference._whole(reference._token_ids(clean, Counting(), "all"), tokenizer, 6)
    rows = row_store.keep(tables, Place())
    expected = [([97, 98] + [99] * i)[:5] for i in range(7)]
    assert rows.take(range(7)).to_pydict() == {
        "prompt_ids": [[tokenizer.bos_token_id]] * 7, "response_ids": expected,
    }  # fmt: skip
