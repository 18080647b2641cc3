"""Every Parquet table of the pipeline: its columns, and the only functions that read or write one.

Long form: one row per response; the responses of one prompt share `prompt_id`, `rank` 0 is the preferred one. Reading
and writing go row group by row group, so memory stays flat as the data grows.

`cuts` are character offsets into `prompt` at which its oldest part may be dropped when it is too long: the first is the
end of what is always kept (a system text), the others are the starts of the later turns.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alol.base.errors import InputError
from alol.base.files import replacing

ROW_GROUP = 2048  # rows
TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)

_PROMPT = [
    ("prompt_id", pa.string()),
    ("subset", pa.string()),  # the test file a row belongs to
    ("prompt", pa.string()),
    ("cuts", pa.list_(pa.int32())),
    ("turns", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
    ("context", pa.string()),  # JSON
]
RESPONSES = pa.schema([*_PROMPT, ("rank", pa.int32()), ("response", pa.string())])
ROLLOUTS = pa.schema([*_PROMPT, ("response", pa.string())])
LABELLED = pa.schema(
    [("prompt", pa.string()), ("response", pa.string()), ("context", pa.string()), ("label", pa.int32())]
)
ADVANTAGES = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("rank", pa.int32()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("ref_logp", pa.list_(pa.float32())),  # one per response token
        ("reward", pa.float32()),
        ("raw_reward", pa.float32()),  # as reward.raw says
        ("value", pa.float32()),
        ("advantage", pa.float32()),
    ]
)


def scored(schema: pa.Schema, components: Iterable[str]) -> pa.Schema:
    """`schema` with one `reward_<component>` column per component."""
    for name in components:
        schema = schema.append(pa.field(f"reward_{name}", pa.float64()))
    return schema


class Writer:
    """Collects rows (dicts) into row groups; `context` is given as a dict and stored as JSON."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema, self.pending, self.count = schema, [], 0
        self._file = pq.ParquetWriter(path, schema, compression="zstd")

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            unknown = set(row) ^ set(self.schema.names)
            if unknown:
                raise ValueError(f"a row's columns differ from the schema's by {sorted(unknown)}")
            if isinstance(row.get("context"), dict):
                row = {**row, "context": json.dumps(row["context"], ensure_ascii=False, sort_keys=True)}
            self.pending.append(row)
            self.count += 1
            if len(self.pending) == ROW_GROUP:
                self._flush()

    def _flush(self) -> None:
        if self.pending:
            self._file.write_table(pa.Table.from_pylist(self.pending, schema=self.schema))
            self.pending = []

    def close(self) -> None:
        self._flush()
        self._file.close()


@contextlib.contextmanager
def writing(path: Path, schema: pa.Schema) -> Iterator[Writer]:
    """A Writer whose file takes its place only when the block ends well."""
    with replacing(path) as partial:
        writer = Writer(partial, schema)
        try:
            yield writer
        finally:
            writer.close()


def write(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> None:
    """Writes all of `rows`, which may be a generator, as one table."""
    with writing(path, schema) as writer:
        writer.write(rows)


def _open(path: Path) -> pq.ParquetFile:
    if not path.exists():
        raise InputError(f"{path} is missing; run `dvc repro` to make it")
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}); delete it and run `dvc repro`") from None


def read(path: Path, columns: list[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """Row group by row group, as lists of dicts; `context` as a dict."""
    with _open(path) as file:
        for i in range(file.num_row_groups):
            rows = file.read_row_group(i, columns=columns).to_pylist()
            for row in rows:
                if "context" in row:
                    row["context"] = json.loads(row["context"])
            yield rows


def rows(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The whole table; for tables that are known to be small (validation, test)."""
    return [row for group in read(path, columns) for row in group]


def table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The whole table in Arrow's own memory, for random access during training."""
    with _open(path) as file:
        return file.read(columns=columns)


def count(path: Path) -> int:
    with _open(path) as file:
        return file.metadata.num_rows


def contexts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What reward functions get beside prompt and response: the row's `context`, its `turns` and its `subset`."""
    return [{**row["context"], "turns": row["turns"], "subset": row["subset"]} for row in rows]


def total_reward(row: dict[str, Any], weights: dict[str, float], shift: float) -> float:
    """R = shift + sum of weight x component, over the `reward_<component>` columns of a row."""
    return shift + sum(weight * row[f"reward_{name}"] for name, weight in weights.items())


def score(row: dict[str, Any], measure: str, weights: dict[str, float], shift: float) -> float:
    """A row's success measure: `reward` is the total, any other name is a column."""
    return total_reward(row, weights, shift) if measure == "reward" else row[measure]
