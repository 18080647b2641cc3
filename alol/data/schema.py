"""Every Parquet table of the pipeline: its columns, and the only functions that read or write one.

Long form: one row per response; the responses of one prompt share `prompt_id`, `rank` 0 is the preferred one. Reading
and writing go batch by batch, so memory stays flat as the data grows.

`cuts` are character offsets into `prompt` at which its oldest part may be dropped when it is too long: the first is the
end of what is always kept (a system text), the others are the starts of the later turns. `marks` are those at which a
text of the format's own begins and ends, in turn: these alone may be special tokens of a model. Most rows have none.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alol.base import faults
from alol.base.errors import InputError, about
from alol.base.files import TARGET, damaged, replacing

BATCH_ROWS = 2048  # that are read, or turned into columns, at a time
GROUP_BYTES = 16 * 2**20  # of a row group, about, in memory; of many small ones the footer alone is large
SURROGATE = re.compile("[\ud800-\udfff]")
HALF = "half of a surrogate pair (such as \\ud800), which is no character"
TRAIN, VALIDATION, TEST = "train", "validation", "test"
PROMPT_MARKS = "prompt_marks"  # key of a reward's context: the column `marks`
SPLITS = (TRAIN, VALIDATION, TEST)

_PROMPT = [
    ("prompt_id", pa.string()),
    ("subset", pa.string()),  # the test file a row belongs to
    ("prompt", pa.string()),
    ("cuts", pa.list_(pa.int32())),
    ("turns", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
    ("context", pa.string()),  # JSON
]
_MARKS = ("marks", pa.list_(pa.int32()))
RESPONSES = pa.schema([*_PROMPT, ("rank", pa.int32()), ("response", pa.string()), _MARKS])
ROLLOUTS = pa.schema([*_PROMPT, ("response", pa.string()), _MARKS])
SAMPLES = pa.schema([*ROLLOUTS, ("sample", pa.int32())])  # several answers to a prompt: all of number 0, then 1, ...
LABELLED = pa.schema(
    [("prompt", pa.string()), ("response", pa.string()), ("context", pa.string()), ("label", pa.int32())]
)
SCORED = pa.schema(
    [("prompt", pa.string()), ("response", pa.string()), ("context", pa.string()), ("score", pa.float64())]
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
# and the rewards of the reference's own sampled answers to the prompt, as many for each
COMPARED = ADVANTAGES.append(pa.field("ref_rewards", pa.list_(pa.float32())))
LOG_RATIOS = pa.schema(
    [("prompt_id", pa.string()), ("tokens", pa.int32()), ("log_ratio", pa.float64())]  # summed over an answer's tokens
)
TABLES = (RESPONSES, ROLLOUTS, SAMPLES, LABELLED, SCORED, COMPARED, LOG_RATIOS)
_TYPES = {field.name: field.type for table in TABLES for field in table}
_OPEN = {"subset", "prompt", "cuts", "marks", "turns"}  # columns that may have empty cells
Columns = pa.Schema | list[str] | None


def scored(schema: pa.Schema, components: Iterable[str]) -> pa.Schema:
    """`schema` with one `reward_<component>` column per component."""
    for name in components:
        schema = schema.append(pa.field(f"reward_{name}", pa.float64()))
    return schema


class Writer:
    """Collects rows (dicts) into row groups of whole batches; `context` is given as a dict and stored as JSON."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema, self.pending, self.count = path, schema, [], 0
        self._group: list[pa.Table] = []
        # statistics hold two whole texts of each row group, and readers keep those of all of them in memory
        self._file = pq.ParquetWriter(
            path, schema, compression="zstd", write_page_checksum=True, write_statistics=False
        )

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            unknown = (set(row) ^ set(self.schema.names)) - {"marks"}
            if unknown:
                raise ValueError(f"a row's columns differ from the schema's by {sorted(unknown)}")
            if isinstance(row.get("context"), dict):
                row = {**row, "context": json.dumps(row["context"], ensure_ascii=False, sort_keys=True)}
            self.pending.append(row)
            self.count += 1
            if len(self.pending) == BATCH_ROWS:
                self._batch()

    def _batch(self) -> None:
        if self.pending:
            pending, self.pending = self.pending, []
            try:
                self._group.append(pa.Table.from_pylist(pending, schema=self.schema))
            except UnicodeEncodeError:
                raise self._half_a_pair(pending) from None
            if sum(table.nbytes for table in self._group) >= GROUP_BYTES:
                self._flush()

    def _flush(self) -> None:
        if self._group:
            group, self._group = pa.concat_tables(self._group), []
            self._file.write_table(group, row_group_size=len(group))

    def _half_a_pair(self, rows: list[dict[str, Any]]) -> InputError:
        """The error for the first text of the rows that UTF-8 cannot hold."""
        cells = ((i, name, value) for i, row in enumerate(rows) for name, value in row.items())
        broken = ((i, name) for i, name, value in cells if SURROGATE.search(json.dumps(value, ensure_ascii=False)))
        i, name = next(broken)
        file, number = TARGET.sub(r"\1", str(self.path)), self.count - len(rows) + i + 1
        prompt = ascii(rows[i].get("prompt_id", rows[i].get("prompt")))[:80]
        return InputError(
            f"{file}, row {number} (prompt {prompt}): its {name} has {HALF}; correct what makes this text"
        )

    def close(self) -> None:
        with contextlib.closing(self._file):
            self._batch()
            self._flush()


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


@contextlib.contextmanager
def _opened(path: Path, columns: Columns) -> Iterator[tuple[pq.ParquetFile, list[str]]]:
    """The open table, whose pages are held against their checksums, and the names of the columns to read.

    Raises InputError for whatever is wrong with it, now or while it is read.
    """
    if not path.exists():
        raise InputError(f"{path} is missing; run `dvc repro` to make it")
    with (
        about(path),
        faults.reading(lambda why: damaged(path, why)),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        if sum(groups) != file.metadata.num_rows:
            raise damaged(path, "its row groups are not all of its rows")
        yield file, _names(path, file.schema_arrow, columns)


def _names(path: Path, found: pa.Schema, columns: Columns) -> list[str]:
    """The names of the `columns`, which must be there, of the types that the pipeline writes; None: those that are."""
    if columns is None:
        return found.names
    wanted = columns.names if isinstance(columns, pa.Schema) else columns
    wanted = [name for name in wanted if name != "marks" or name in found.names]
    if missing := [name for name in wanted if name not in found.names]:
        raise damaged(path, f"it lacks the columns {', '.join(missing)}")
    for name in wanted:
        kind = columns.field(name).type if isinstance(columns, pa.Schema) else _TYPES[name]
        if found.field(name).type != kind:
            raise damaged(path, f"its column {name} is of the type {found.field(name).type}, not {kind}")
    return wanted


def _whole(path: Path, found: pa.Table, columns: Columns) -> pa.Table:
    """The table, once its texts and lists are known to be what they say."""
    found.validate(full=True)
    asked = found.column_names if columns is not None else []
    if empty := [name for name in asked if name not in _OPEN and found[name].null_count]:
        raise damaged(path, f"its column {empty[0]} has empty cells")
    return found


def read(path: Path, columns: Columns = None) -> Iterator[list[dict[str, Any]]]:
    """Batch by batch, as lists of dicts; `context` as a dict.

    `columns` are those that the table must have, and that are read. None: whatever a file of the user's has.
    """
    with _opened(path, columns) as (file, names):
        for batch in _batches(path, file, names, columns):
            yield plain(path, batch, columns)


def plain(path: Path, part: pa.Table, columns: Columns = None) -> list[dict[str, Any]]:
    """The rows of a part of the table at `path`, as `read` gives them."""
    rows = part.to_pylist()
    for row in rows:
        if row.get("marks", ()) is None:
            del row["marks"]
        if "context" in row:
            row["context"] = json.loads(row["context"])
            if columns is not None and not isinstance(row["context"], dict):
                raise damaged(path, "a context is no JSON object")
    return rows


def tables(path: Path, columns: Columns = None) -> Iterator[pa.Table]:
    """Batch by batch, in Arrow's own memory; a table without rows where there is none."""
    with _opened(path, columns) as (file, names):
        if not file.num_row_groups:
            yield _whole(path, file.read(columns=names), columns)
        yield from _batches(path, file, names, columns)


def _batches(path: Path, file: pq.ParquetFile, names: list[str], columns: Columns) -> Iterator[pa.Table]:
    for i in range(file.num_row_groups):  # no batch spans two of them
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[i], columns=names):
            yield _whole(path, pa.Table.from_batches([batch]), columns)


def rows(path: Path, columns: Columns = None) -> list[dict[str, Any]]:
    """The whole table; for tables that are known to be small (validation, test)."""
    return [row for group in read(path, columns) for row in group]


def table(path: Path, columns: Columns = None) -> pa.Table:
    """The whole table in Arrow's own memory; for tables that are known to be small."""
    with _opened(path, columns) as (file, names):
        return _whole(path, file.read(columns=names), columns)


def count(path: Path) -> int:
    with _opened(path, []) as (file, _):
        return file.metadata.num_rows


def contexts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What reward functions get beside prompt and response: the row's `context`, its `turns` and its `subset`.

    And `prompt_marks`, its `marks`, where its format wrote any.
    """
    return [
        {
            **row["context"],
            "turns": row["turns"],
            "subset": row["subset"],
            **({PROMPT_MARKS: row["marks"]} if row.get("marks") else {}),
        }
        for row in rows
    ]


def total_reward(row: dict[str, Any], weights: dict[str, float], shift: float) -> float:
    """R = shift + sum of weight x component, over the `reward_<component>` columns of a row."""
    return shift + sum(weight * row[f"reward_{name}"] for name, weight in weights.items())


def score(row: dict[str, Any], measure: str, weights: dict[str, float], shift: float) -> float:
    """A row's success measure: `reward` is the total, any other name is a column."""
    return total_reward(row, weights, shift) if measure == "reward" else row[measure]
