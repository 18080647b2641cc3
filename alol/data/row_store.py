"""Rows of a table that may be more than memory holds, taken by their numbers: in any order, a batch at a time.

A few lie in this process's own memory. More are written once, as they come, to an Arrow IPC file which is mapped: the
system reads what is taken and lets go of it where memory is short, and all processes of a machine share its pages. The
file has no name once it is open, so that nothing of it stays, however the processes end. Columns are never joined: the
lists of an Arrow array end at 2^31 values, which ten million responses are beyond.
"""

from __future__ import annotations

import itertools
import mmap
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from alol.base.files import remove, replacing
from alol.data import schema

if TYPE_CHECKING:  # a second of every start
    from accelerate import Accelerator

LIMIT = 32 * 2**20  # bytes that stay in the process's own memory
BATCH = 8 * 2**20  # bytes of a record batch of the file, about
POLL = 0.1  # seconds


@dataclass(frozen=True)
class Place:
    """Where rows are written that are too many for memory: into `folder`, by one of the machine's processes for all.

    Without a folder it is a temporary one, and each process has its own.
    """

    folder: Path | None = None
    accelerator: Accelerator | None = None


class RowStore:
    """Rows in record batches of one schema; `mapped` is the file in which they lie, if they do."""

    def __init__(self, batches: Sequence[pa.RecordBatch], columns: pa.Schema, mapped: mmap.mmap | None = None) -> None:
        self._batches, self.schema, self._mapped = list(batches), columns, mapped
        self._starts = np.cumsum([0, *(len(batch) for batch in self._batches)])

    @classmethod
    def of(cls, table: pa.Table) -> RowStore:
        """The rows of a table, as they lie."""
        return cls(table.to_batches(), table.schema)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: Sequence[int]) -> pa.Table:
        """The rows of these numbers, in this order, as a table of one chunk."""
        places = np.searchsorted(self._starts, rows, side="right") - 1
        found = [self._batches[k].slice(row - self._starts[k], 1) for k, row in zip(places, rows, strict=True)]
        table = pa.Table.from_batches(found, self.schema).combine_chunks()
        self._release()
        return table

    def chunks(self, name: str) -> pa.ChunkedArray:
        """A column, batch by batch."""
        return pa.chunked_array([batch[name] for batch in self._batches], self.schema.field(name).type)

    def column(self, name: str) -> np.ndarray:
        """A column of numbers [rows]."""
        return self.chunks(name).to_numpy()

    def lengths(self, *names: str) -> np.ndarray:
        """How many values the lists of these columns have, together [rows]."""
        lengths = np.zeros(len(self), dtype=np.int32)
        for start, batch in zip(self._starts[:-1], self._batches, strict=True):
            for name in names:
                lengths[start : start + len(batch)] += batch[name].value_lengths().to_numpy()
            self._release()
        return lengths

    def _release(self) -> None:
        """Lets go of the pages that were read: they stay in the system's cache and count as this process's no more."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Source:
    """A table of `count` rows, kept in part: `read` goes through it from the start, with the columns that are named."""

    read: Callable[[Sequence[str]], Iterable[pa.Table]]
    count: int
    place: Place = Place()

    @classmethod
    def of(cls, table: pa.Table) -> Source:
        return cls(lambda names: [table.select(list(names))], len(table))

    @classmethod
    def parquet(cls, path: Path, place: Place) -> Source:
        """A table of the pipeline's own."""
        return cls(lambda names: schema.tables(path, list(names)), schema.count(path), place)

    def numbers(self, *names: str) -> dict[str, np.ndarray]:
        """Columns of numbers [rows], of all rows."""
        found: dict[str, np.ndarray] = {}
        start = 0
        for table in self.read(names):
            for name in names:
                part = table[name].to_numpy()
                if name not in found:
                    found[name] = np.empty(self.count, part.dtype)
                found[name][start : start + len(part)] = part  # at once: it keeps alive what it was read into
            start += len(table)
        return found

    def rows(self, names: Sequence[str], kept: np.ndarray | None = None) -> RowStore:
        """The rows with these columns; `kept` [rows]: those for which it is true. Nothing else is held."""
        return keep(self._filtered(names, kept), self.place)

    def _filtered(self, names: Sequence[str], kept: np.ndarray | None) -> Iterator[pa.Table]:
        start = 0
        for table in self.read(names):
            mask = None if kept is None else kept[start : start + len(table)]
            start += len(table)
            yield table if mask is None or mask.all() else table.filter(pa.array(mask))


def keep(tables: Iterable[pa.Table], place: Place) -> RowStore:
    """The rows of all tables, of which there is one at least (without rows, maybe), in memory or in a mapped file.

    Of several processes that have a folder, one of each machine goes through `tables`; the others wait for its file.
    """
    if place.folder is not None:
        place.folder.mkdir(parents=True, exist_ok=True)
    if place.folder is not None and place.accelerator is not None and place.accelerator.num_processes > 1:
        return _shared(tables, place.folder, place.accelerator)
    remaining, first, size = iter(tables), deque[pa.Table](), 0
    for table in remaining:
        first.append(table)
        size += table.nbytes
        if size > LIMIT:
            held = (first.popleft() for _ in range(len(first)))  # each goes as soon as it is written
            return _alone(itertools.chain(held, remaining), place.folder)
    return RowStore([batch for table in first for batch in table.to_batches()], first[0].schema)


def _alone(tables: Iterable[pa.Table], folder: Path | None) -> RowStore:
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return _alone(tables, Path(temporary))
    path = folder / "rows.arrow"
    _write(path, tables)
    try:
        return _mapped(path)
    finally:
        remove(path)


def _shared(tables: Iterable[pa.Table], folder: Path, main: Accelerator) -> RowStore:
    """By the first process of each machine; the name tells them apart where they share a file system."""
    path, first = folder / f"rows-{main.process_index - main.local_process_index}.arrow", main.is_local_main_process
    if first:
        remove(path)
    main.wait_for_everyone()  # so that nobody opens what a killed run left
    if first:
        _write(path, tables)
    while not path.exists():  # a barrier would give up after some minutes
        time.sleep(POLL)
    rows = _mapped(path)
    main.wait_for_everyone()
    if first:
        remove(path)
    return rows


def _write(path: Path, tables: Iterable[pa.Table]) -> None:
    with replacing(path) as partial:
        remaining = iter(tables)
        first = next(remaining)
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, first.schema) as writer:
            for batch in _batches(itertools.chain([first], remaining)):
                writer.write_batch(batch)


def _batches(tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    """The rows in larger record batches, so that there are few."""
    pending: list[pa.Table] = []
    for table in tables:
        pending.append(table)
        if sum(one.nbytes for one in pending) >= BATCH:
            yield from pa.concat_tables(pending).combine_chunks().to_batches()
            pending = []
    if pending:
        yield from pa.concat_tables(pending).combine_chunks().to_batches()


def _mapped(path: Path) -> RowStore:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped)))
    return RowStore([reader.get_batch(i) for i in range(reader.num_record_batches)], reader.schema, mapped)
