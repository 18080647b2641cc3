"""Plans of tables beyond memory and beyond what an Arrow array of lists holds; what is held of a table at all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from alol.algorithms.registry import FROM_DATA
from alol.config import params
from alol.data import row_store, schema
from alol.data.row_store import Place, Source
from alol.training import planning

BATCHES = 9


@pytest.fixture(scope="module")
def settings():
    loaded = params.load("demo").train
    return dataclasses.replace(loaded, train_on="all", batch_size=4, updates=6, epochs=None, evaluations=2)


def table(count: int) -> pa.Table:
    """Pairs: row i has a prompt of i % 3 + 1 tokens, one response token, the reward i and the advantage i - 4."""
    rows = [
        {
            "prompt_id": str(i // 2), "rank": i % 2, "prompt_ids": [i] * (i % 3 + 1), "response_ids": [100 + i],
            "ref_logp": [-float(i)], "reward": float(i), "raw_reward": float(i), "value": 4.0, "advantage": i - 4.0,
        }
        for i in range(count)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema.ADVANTAGES)


def many() -> pa.Table:
    """2^31 tokens and more: in each batch a prompt of 2^28 tokens, all of one buffer, and two short ones."""
    long = 2**28
    tokens = np.ones(long + 5, dtype=np.int8)
    tokens[-5:] = [1, 2, 3, 4, 5]
    prompts = pa.ListArray.from_arrays(pa.array([0, long, long + 2, long + 5], pa.int32()), pa.array(tokens))
    columns = {
        "prompt_ids": prompts, "response_ids": pa.array([[7], [8], [9, 9]], pa.list_(pa.int32())),
        "ref_logp": pa.array([[-1.0], [-2.0], [-3.0, -3.0]], pa.list_(pa.float32())),
        "rank": pa.array([0, 0, 0], pa.int32()),
        **{name: pa.array([0.0, 1.0, 2.0], pa.float32()) for name in ("reward", "advantage")},
    }  # fmt: skip
    return pa.Table.from_batches([pa.record_batch(columns)] * BATCHES)


def test_more_tokens_than_an_arrow_array_of_lists_holds(monkeypatch, settings):
    monkeypatch.setattr(row_store, "LIMIT", 2**40)  # no file of the same zeros
    examples, plan = planning.plan(Source.of(many()), FROM_DATA["nll"], settings, 1, 0)
    assert examples.lengths.tolist() == [2**28 + 1, 3, 5] * BATCHES
    assert plan.draws.shape == (6, 4)
    batch, _ = examples.batch([3 * BATCHES - 1, 1], (), torch.device("cpu"))
    assert (batch.prompts, batch.responses) == ([[3, 4, 5], [1, 2]], [[9, 9], [8]])


def test_the_filter_leaves_its_rows_out_of_memory(settings):
    examples, plan = planning.plan(Source.of(many()), FROM_DATA["a_lol"], settings, 1, 0)
    assert examples.lengths.tolist() == [3, 5] * BATCHES
    assert plan.discarded == pytest.approx(1 / 3)
    assert sum(chunk.nbytes for chunk in examples.rows.chunks("prompt_ids").chunks) < 1000
    batch, extra = examples.batch([0, 17], ("ref_logp", "advantage"), torch.device("cpu"))
    assert batch.prompts == [[1, 2], [3, 4, 5]]
    assert extra["ref_logp"].tolist() == [[-2.0, 0.0], [-3.0, -3.0]]
    assert extra["advantage"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nll", set()),
        ("a_lol", {"ref_logp", "advantage"}),
        ("pro", {"prompt_id", "rank", "raw_reward"}),
    ],
)
def test_only_the_columns_of_the_algorithm_are_held(settings, name, expected):
    examples, _ = planning.plan(Source.of(table(12)), FROM_DATA[name], settings, 1, 0)
    assert {*examples.rows.schema.names} == {"prompt_ids", "response_ids"} | expected


@pytest.mark.parametrize("name", ["nll", "wbc", "a_lol", "dpo", "pro"])
def test_a_mapped_table_gives_the_draws_and_batches_of_one_in_memory(monkeypatch, tmp_path, settings, name):
    monkeypatch.setattr(schema, "BATCH_ROWS", 5)
    path = tmp_path / "train.parquet"
    schema.write(path, schema.ADVANTAGES, table(24).to_pylist())
    algorithm, cpu = FROM_DATA[name], torch.device("cpu")
    one, first = planning.plan(Source.of(table(24)), algorithm, settings, 1, 0)
    monkeypatch.setattr(row_store, "LIMIT", 0)
    monkeypatch.setattr(row_store, "BATCH", 100)
    other, second = planning.plan(Source.parquet(path, Place(tmp_path)), algorithm, settings, 1, 0)
    assert len(other.rows.chunks("response_ids").chunks) > 2
    assert torch.equal(first.draws, second.draws)
    assert one.lengths.tolist() == other.lengths.tolist()
    for rows in first.draws.tolist():
        (batch, extra), (same, again) = (x.batch(rows, algorithm.columns, cpu) for x in (one, other))
        assert (batch.prompts, batch.responses) == (same.prompts, same.responses)
        assert all(torch.equal(extra[column], again[column]) for column in algorithm.columns)


def test_names_are_numbered_by_their_first_appearance_in_any_batch():
    names = pa.chunked_array([["b", "a"], [], ["a", "c", "b"], ["d"]], pa.string())
    assert planning._numbered(names).tolist() == [0, 1, 1, 2, 0, 3]
