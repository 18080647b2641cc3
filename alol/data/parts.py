"""What a stage computes of a table's rows, piece by piece: kept as it comes, so that a killed stage computes the rest.

A piece is computed alone, with nothing of another in its batches, so that the numbers depend neither on where a stage
was killed nor on which of several processes computed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from alol.base.errors import InputError
from alol.base.files import remove
from alol.base.work import Work
from alol.data import schema

if TYPE_CHECKING:  # a second of every start
    from accelerate import Accelerator

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

    `rows` is how many of them were there from the start.
    """

    def __init__(self, work: Work | None, columns: pa.Schema) -> None:
        self._work, self._columns = work, columns.append(pa.field(PIECE, pa.int32()))
        self._pending: Rows = []
        self._open: tuple[str, pa.Table] | None = None
        self._governor = work.governor(SECONDS) if work is not None else None
        self.rows = self._look()
        pa.Table.from_pylist([], schema=columns)  # brings pandas, which writing the table itself takes anyway

    def through(
        self,
        source: Callable[[], Iterator[Sequence[Row]]],
        compute: Callable[[int, Sequence[Row]], Rows],
        main: Accelerator | None = None,
    ) -> Iterator[tuple[Sequence[Row], Rows]]:
        """Each piece of the source with what `compute` makes of it, given the number of its first row, in order.

        `source` begins anew at every call. The pieces are dealt out to the processes of `main`, of which the main one
        then gets all of them and the others none; they need `work`.
        """
        if main is not None and main.num_processes > 1:
            for number, start, piece in _numbered(source()):
                if number % main.num_processes == main.process_index and number not in self._places:
                    self._add(number, compute(start, piece), needed=True)
            self._write()
            main.wait_for_everyone()
            if not main.is_main_process:
                return
            self._look()
        for number, start, piece in _numbered(source()):
            if (rows := self._stored(number)) is None:
                rows = compute(start, piece)
                self._add(number, rows)
            yield piece, rows

    def _add(self, number: int, rows: Rows, *, needed: bool = False) -> None:
        """Keeps a piece's rows: at once or with later ones. Those that take no longer to compute than to write may go.

        `needed`: another process gets them from here.
        """
        if self._work is None or self._governor is None:
            return
        self._pending += [{**row, PIECE: number} for row in rows]
        many = len(self._pending) >= WAITING
        if self._governor.due(SIZE * len(self._pending)) or (many and needed):
            self._write()
        elif many:
            self._pending = []

    def _write(self) -> None:
        if self._work is None or self._governor is None or not self._pending:
            return
        with self._governor.writing(SIZE * len(self._pending)):
            first = self._pending[0][PIECE]
            schema.write(self._work.folder / f"{first:09d}.parquet", self._columns, self._pending)
        self._pending = []

    def _look(self) -> int:
        """Finds the pieces that are stored and counts their rows. What is damaged goes away, to be computed again."""
        self._places: dict[int, str] = {}
        total = 0
        if self._work is not None and self._work.folder.is_dir():
            for path in sorted(self._work.folder.glob("*.parquet")):
                try:
                    found = schema.table(path, pa.schema([self._columns.field(PIECE)]))[PIECE]
                except InputError:
                    remove(path)
                    continue
                total += len(found)
                self._places |= dict.fromkeys(pc.unique(found).to_pylist(), path.name)
        return total

    def _stored(self, number: int) -> Rows | None:
        if self._work is None or (name := self._places.get(number)) is None:
            return None
        if self._open is None or self._open[0] != name:
            try:
                self._open = name, schema.table(self._work.folder / name, self._columns)
            except InputError:
                return None
        table = self._open[1]
        return table.filter(pc.equal(table[PIECE], number)).drop_columns(PIECE).to_pylist()


def _numbered(source: Iterator[Sequence[Row]]) -> Iterator[tuple[int, int, Sequence[Row]]]:
    """Number of the piece, number of its first row, and its rows."""
    start = 0
    for number, piece in enumerate(source):
        yield number, start, piece
        start += len(piece)
