"""Raw files as lines of text, bounded while they are read, and the row that every reader makes of them."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from alol.base.errors import InputError

LONGEST: ContextVar[int] = ContextVar("LONGEST", default=1 << 24)
QUOTING: ContextVar[Mapping[str, str]] = ContextVar("QUOTING", default={"csv": "lines", "tsv": "line"})  # noqa: B039


@contextlib.contextmanager
def bounded(longest: int, quoting: Mapping[str, str] | None = None) -> Iterator[None]:
    """What is read within the block has lines, rows and JSON values of at most `longest` bytes (clean.max_line).

    `quoting` (clean.quoting) says what quotes enclose in a .csv and a .tsv: cells of several "lines", cells within a
    "line", or "none": they are letters then.
    """
    tokens = LONGEST.set(longest), QUOTING.set(quoting or QUOTING.get())
    try:
        yield
    finally:
        LONGEST.reset(tokens[0])
        QUOTING.reset(tokens[1])


class Record(NamedTuple):
    """One row of a raw file; `where` is its file and line, for messages."""

    where: str
    values: dict[str, Any]


Tick = Callable[[int], object]  # told how many more bytes of the file, as it is on disk, were read


class _Told(io.FileIO):
    """A file that tells of the bytes that are read from it."""

    def __init__(self, path: Path, tick: Tick) -> None:
        super().__init__(path)
        self._tick = tick

    def readinto(self, buffer: memoryview) -> int | None:
        count = super().readinto(buffer)
        self._tick(count or 0)
        return count


@contextlib.contextmanager
def opened(path: Path, tick: Tick) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked; damage found while reading raises InputError."""
    if not path.is_file():
        raise InputError(f"{path} is missing")
    try:
        with io.BufferedReader(_Told(path, tick)) as file:
            if path.name.endswith(".gz"):
                with gzip.open(file) as unpacked:
                    yield unpacked  # type: ignore[misc]
            else:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is cut off or not a gzip file ({error}); fetch it again") from None


def lines(path: Path, tick: Tick) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and lines with their ends; a byte order mark is left out."""
    longest = LONGEST.get()
    with opened(path, tick) as file:
        for number, line in enumerate(iter(partial(file.readline, longest + 1), b""), 1):
            where = f"{path}, line {number}"
            if len(line) > longest:
                raise too_long(where, "has lost its line breaks or a quote")
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{where}: not UTF-8 at byte {error.start + 1} of the line") from None


def too_long(where: str, why: str) -> InputError:
    return InputError(f"{where}: longer than {LONGEST.get():,} bytes; raise clean.max_line, unless the file {why}")


def returns(line: str) -> str:
    """What to do with carriage returns within a line; nothing where it has none."""
    if "\r" not in line.rstrip("\r\n"):
        return ""
    return (
        "has a carriage return within it; if lines end so, change them (tr '\\r' '\\n' < FILE > NEW), else take it out"
    )
