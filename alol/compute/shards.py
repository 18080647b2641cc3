"""Who computes which piece of a table: this process, several processes of one run, or actors on a Ray cluster.

A *recipe* is a function without arguments that loads models (`functools.partial` of a module's function and plain
values, so that another machine can call it too). A *computation* is `compute(models, start, rows, done)`: what it makes
of the rows of a piece, of which the first has the number `start` in its table; it may call `done(n)` after each n rows.
Every process calls the recipe once at most, when the first piece needs it.

Pieces share nothing, so it does not matter who computes one. That their rounding does not depend on it either, all
processes and actors of a run compute with the same number of threads.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from alol.base.files import replacing
from alol.base.work import Work
from alol.config.sections import Launch

if TYPE_CHECKING:  # a second of every start
    from accelerate import Accelerator

Models = TypeVar("Models")
Row = TypeVar("Row")
Rows = list[dict[str, Any]]
Done = Callable[[int], object]
Compute = Callable[[Models, int, Sequence[Row], Done], Rows]
LOOK = 5.0  # seconds between two looks at what the other processes have done
_MAPS = itertools.count()  # all processes of a run map in the same order
WINDOW = 4  # pieces to each actor that may be ahead of the first one that is still awaited


class Store(Protocol):
    """Where computed pieces are kept (alol.data.parts.Parts)."""

    rows: int

    @property
    def numbers(self) -> set[int]: ...
    def add(self, number: int, rows: Rows, *, needed: bool = False) -> None: ...
    def write(self) -> None: ...
    def look(self) -> int: ...
    def stored(self, number: int) -> Rows | None: ...


@dataclass(frozen=True)
class Bar:
    """A progress bar over all rows of a table."""

    total: int
    name: str
    unit: str
    leave: bool = True


class Pool(Generic[Models]):
    """What computes pieces with the models of one recipe: this process alone, or as `Pool.of` says.

    To be used as a context, which ends what it started.
    """

    def __init__(self, recipe: Callable[[], Models]) -> None:
        self._recipe = recipe
        self._models: Models | None = None
        self._processes: Accelerator | None = None
        self._cluster: Callable[[], Any] | None = None  # what starts the actors
        self._actors: Any = None

    @classmethod
    def of(cls, recipe: Callable[[], Models], launch: Launch, work: Work) -> Pool[Models]:
        """The pool of a stage: the actors of `launch.cluster`, or the processes of this run, of which this is one.

        Both leave what they computed in `work`, in a folder that all of them see. One process alone loads no torch.
        """
        pool = cls(recipe)
        if launch.cluster is not None:
            from alol.compute import cluster

            pool._cluster = lambda: cluster.Actors(recipe, launch, work.folder)
        elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from alol.compute.launch import accelerator

            pool._processes = accelerator(launch, work)
        return pool

    @property
    def main(self) -> bool:
        """Whether this process gets the pieces and writes."""
        return self._processes is None or self._processes.is_main_process

    def __enter__(self) -> Pool[Models]:
        return self

    def __exit__(self, *error: object) -> None:
        self._models = None
        if self._actors is not None:
            self._actors.end()
            self._actors = None

    def output(self, path: Path) -> contextlib.AbstractContextManager[Path]:
        """A place to write at, which takes `path`'s place when the block ends well; only the main process writes."""
        return replacing(path) if self.main else contextlib.nullcontext(path)

    def map(
        self,
        source: Callable[[], Iterator[Sequence[Row]]],
        compute: Compute[Models, Row],
        store: Store,
        bar: Bar,
        *,
        everywhere: bool = False,
    ) -> Iterator[tuple[Sequence[Row], Rows]]:
        """Each piece of the source with what `compute` makes of it, in order; stored pieces are not computed again.

        `source` begins anew at every call. Several processes compute their shares before this returns; then the main
        one alone gets the pieces, unless they are wanted `everywhere`.
        """
        shown = tqdm(
            total=bar.total, initial=store.rows, desc=bar.name, unit=bar.unit, leave=bar.leave, disable=not self.main
        )
        if self._processes is not None:
            try:
                self._share(source, compute, store, shown)
            except BaseException:
                shown.close()
                raise
            if not self.main and not everywhere:
                return iter(())
            shown.update(store.look())
        through = self._through if self._cluster is None else self._through_cluster
        return self._whole(through(source, compute, store, shown), shown)

    def _whole(self, through: Iterator[tuple[Sequence[Row], Rows]], bar: tqdm) -> Iterator[tuple[Sequence[Row], Rows]]:
        """What comes through; where it ends before its time, pieces of it are still on their way, and nobody's."""
        with bar:
            try:
                yield from through
            except BaseException:
                self.__exit__()
                raise

    def _through(
        self, source: Callable[[], Iterator[Sequence[Row]]], compute: Compute[Models, Row], store: Store, bar: tqdm
    ) -> Iterator[tuple[Sequence[Row], Rows]]:
        for number, start, piece in _numbered(source()):
            if (rows := store.stored(number)) is None:
                rows = self._here(compute, start, piece, bar)
                store.add(number, rows)
            yield piece, rows

    def _here(self, compute: Compute[Models, Row], start: int, piece: Sequence[Row], bar: tqdm) -> Rows:
        if self._models is None:
            self._models = self._recipe()
        before = bar.n
        rows = compute(self._models, start, piece, bar.update)
        bar.update(len(piece) - (bar.n - before))
        return rows

    def _share(
        self, source: Callable[[], Iterator[Sequence[Row]]], compute: Compute[Models, Row], store: Store, bar: tqdm
    ) -> None:
        """This process's share of the pieces that are missing, and the wait for the others.

        Each process takes the next piece when it is done with one, since pieces take unlike times. The main process
        says which are missing, since it alone looks before anybody writes.
        """
        from alol.compute.launch import counter, from_main

        accelerator = self._processes
        there, missing, looked = set(from_main(sorted(store.numbers), accelerator)), 0, time.monotonic()
        taken = counter(f"pieces of map {next(_MAPS)}")
        mine = next(taken)
        for number, start, piece in _numbered(source()):
            if number in there:
                continue
            if missing == mine:
                store.add(number, self._here(compute, start, piece, bar), needed=True)
                mine = next(taken)
            if self.main and time.monotonic() - looked > LOOK:
                bar.update(store.look())
                looked = time.monotonic()
            missing += 1
        store.write()
        accelerator.wait_for_everyone()

    def _through_cluster(
        self, source: Callable[[], Iterator[Sequence[Row]]], compute: Compute[Models, Row], store: Store, bar: tqdm
    ) -> Iterator[tuple[Sequence[Row], Rows]]:
        """The pieces in order, of which so few are on their way at once that a table may have any length."""
        ahead: deque[tuple[int, Sequence[Row]]] = deque()
        results: dict[int, Rows] = {}

        def collect() -> None:
            number, rows = self._actors.next()
            store.add(number, rows, needed=True)  # by the run that goes on, if this one is killed
            results[number] = rows
            bar.update(len(rows))

        def until(length: int) -> Iterator[tuple[Sequence[Row], Rows]]:
            """What is there already and, if more pieces than `length` are ahead, what comes."""
            while ahead and (ahead[0][0] in results or len(ahead) > length):
                while ahead[0][0] not in results:
                    collect()
                number, piece = ahead.popleft()
                yield piece, results.pop(number)

        for number, start, piece in _numbered(source()):
            if (rows := store.stored(number)) is not None:
                results[number] = rows
            else:
                if self._actors is None:
                    self._actors = self._cluster()
                while not self._actors.free:
                    collect()
                self._actors.submit(compute, number, start, piece)
            ahead.append((number, piece))
            yield from until(WINDOW * self._actors.count if self._actors is not None else 0)
        yield from until(0)


def _numbered(source: Iterator[Sequence[Row]]) -> Iterator[tuple[int, int, Sequence[Row]]]:
    """Number of the piece, number of its first row, and its rows."""
    start = 0
    for number, piece in enumerate(source):
        yield number, start, piece
        start += len(piece)
