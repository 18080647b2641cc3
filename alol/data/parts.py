"""What a stage computes of a table's rows, piece by piece: kept as it comes, so that a killed stage computes the rest.

A piece is computed alone, with nothing of another in its batches, so that the numbers depend neither on where a stage
was killed nor on which process or machine computed it. Who computes which piece is `alol.compute.shards`' affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from alol.base.errors import InputError
from alol.base.files import remove
from alol.base.work import Work
from alol.data import schema

PIECE = "piece"
SECONDS = 1.0  # between two files, at least: each takes its place on the disk
SIZE = 500  # bytes of a row, about
WAITING = 8192  # rows in memory that are computed and not yet kept
Row = TypeVar("Row")
Rows = list[dict[str, Any]]


def pieces(groups: Iterable[Sequence[Row]], size: int) -> Iterator[Sequence[Row]]:
    """Groups of rows in pieces of `size`; the last of a group may be smaller."""
    return (rows[start : start + size] for rows in groups for start in range(0, len(rows), size))


class Parts:
    """The computed rows of one table, with `columns`; in `work`, where there is one, as Parquet files of whole pieces.

    Several processes may write files of different pieces side by side. `rows` is how many rows are there.
    """

    def __init__(self, work: Work | None, columns: pa.Schema) -> None:
        self._work, self._columns = work, columns.append(pa.field(PIECE, pa.int32()))
        self._pending: Rows = []
        self._places: dict[int, str] = {}  # piece -> name of the file that has it
        self._seen: set[str] = set()
        self._read: dict[int, pa.Table] = {}  # of the files that were opened: the pieces that nobody has taken yet
        self._governor = work.governor(SECONDS) if work is not None else None
        self.rows = 0
        self.look()
        pa.Table.from_pylist([], schema=columns)  # brings pandas, which writing the table itself takes anyway

    @property
    def numbers(self) -> set[int]:
        """The pieces that are stored."""
        return set(self._places)

    def add(self, number: int, rows: Rows, *, needed: bool = False) -> None:
        """Keeps a piece's rows: at once or with later ones. Those that take no longer to compute than to write may go.

        `needed`: another process gets them from here.
        """
        if self._work is None or self._governor is None:
            return
        self._pending += [{**row, PIECE: number} for row in rows]
        many = len(self._pending) >= WAITING
        if self._governor.due(SIZE * len(self._pending)) or (many and needed):
            self.write()
        elif many:
            self._pending = []

    def write(self) -> None:
        """Writes the pieces that are kept in memory so far."""
        if self._work is None or self._governor is None or not self._pending:
            return
        with self._governor.writing(SIZE * len(self._pending)):
            numbers = {row[PIECE] for row in self._pending}
            path = self._work.folder / f"{self._pending[0][PIECE]:09d}.parquet"
            schema.write(path, self._columns, self._pending)
        self._seen.add(path.name)
        self._places |= dict.fromkeys(numbers, path.name)
        self.rows += len(self._pending)
        self._pending = []

    def look(self) -> int:
        """Finds pieces that were stored since, by another process or an earlier run; returns how many rows they have.

        What is damaged goes away, to be computed again.
        """
        before = self.rows
        paths = self._work.folder.glob("*.parquet") if self._work is not None and self._work.folder.is_dir() else ()
        for path in sorted(path for path in paths if path.name not in self._seen):
            try:
                found = schema.table(path, pa.schema([self._columns.field(PIECE)]))[PIECE]
            except InputError:
                remove(path)
                continue
            self._seen.add(path.name)
            self.rows += len(found)
            self._places |= dict.fromkeys(pc.unique(found).to_pylist(), path.name)
        return self.rows - before

    def stored(self, number: int) -> Rows | None:
        """The rows of a piece; None where it has to be computed."""
        if self._work is None or (name := self._places.get(number)) is None:
            return None
        if number not in self._read:  # each file is read once, whichever order its pieces and others' are taken in
            try:
                table = schema.table(self._work.folder / name, self._columns)
            except InputError:
                return None
            for one in pc.unique(table[PIECE]).to_pylist():
                self._read[one] = table.filter(pc.equal(table[PIECE], one)).drop_columns(PIECE)
        return self._read.pop(number).to_pylist()
