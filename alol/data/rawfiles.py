"""Raw files as streams of rows: JSON lines, JSON arrays, CSV, TSV and Parquet, plain or gzipped.

Every row comes with its place (file and line), so that whoever finds a mistake can name it. Nothing is read whole.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from tqdm import tqdm

from alol.base.errors import InputError

CHUNK = 1 << 20  # characters of a JSON array read at once
LONGEST = 1 << 26  # characters of one item or cell; a longer one is a file that lost a bracket or a quote
OPENING, BETWEEN = re.compile(r"\s*\[\s*(?!\s*\])"), re.compile(r"\s*,\s*")
EMPTY, CLOSING = re.compile(r"\s*\[\s*\]\s*$"), re.compile(r"\s*\]\s*$")


class Record(NamedTuple):
    """One row of a raw file; `where` is its file and line, for messages."""

    where: str
    values: dict[str, Any]


Tick = Callable[[int], object]  # told how many more bytes of the file, as it is on disk, were read
Reader = Callable[[Path, Tick], Iterator[Record]]


def find(raw: Path, name: str) -> Path:
    """The raw file `name`, which must lie below `raw`; raises InputError when it doesn't or is missing."""
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InputError(f"'{name}' is not a path below {raw}; name raw files relative to that folder")
    if not (raw / name).is_file():
        same = sorted(path.relative_to(raw).as_posix() for path in raw.rglob(f"{PurePosixPath(name).name}*"))
        there = f"; there is: {', '.join(same[:3])}" if same else ""
        raise InputError(f"{raw / name} is missing; check `source` and `clean` in the task's file{there}")
    return raw / name


def records(path: Path, header: Sequence[str] | None = None, title: str | None = None) -> Iterator[Record]:
    """The rows of a .jsonl, .json (an array or one object a line), .csv, .tsv or .parquet file.

    All but .parquet may end in .gz. A .csv or .tsv file starts with the names of its columns, unless they are given as
    `header`. With a `title` the bytes read are shown in a progress bar. Raises InputError naming the file and the line
    that cannot be read.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in READERS:
        raise InputError(f"{path}: unknown kind of file; known: {', '.join(READERS)}")
    reader = READERS[suffix] if header is None else partial(_separated, dialect=DIALECTS[suffix], header=header)
    return reader(path, lambda count: None) if title is None else _shown(reader, path, title)


def _shown(reader: Reader, path: Path, title: str) -> Iterator[Record]:
    size = path.stat().st_size if path.is_file() else None
    with tqdm(desc=title, total=size, unit="B", unit_scale=True, disable=None) as bar:
        yield from reader(path, bar.update)


def column(record: Record, name: str) -> Any:
    """The value of a column; raises InputError naming the columns that there are."""
    if name not in record.values:
        raise InputError(f"{record.where}: no column '{name}'; there are: {', '.join(map(str, record.values))}")
    return record.values[name]


def text(record: Record, name: str) -> str:
    """The value of a column that must be a text with something in it."""
    value = column(record, name)
    if not isinstance(value, str) or not value.strip():
        found = "empty" if isinstance(value, str) or value is None else repr(value)[:60]
        raise InputError(f"{record.where}: column '{name}' must be a text, but is {found}")
    return value


def plain(record: Record, name: str) -> Any:
    """The value of a column that JSON can hold."""
    value = column(record, name)
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        raise InputError(f"{record.where}: column '{name}' holds {type(value).__name__}, which JSON cannot") from None
    return value


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
def _opened(path: Path, tick: Tick) -> Iterator[BinaryIO]:
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


def _lines(path: Path, tick: Tick) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and lines with their ends; a byte order mark is left out."""
    with _opened(path, tick) as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{path}, line {number}: not UTF-8 at byte {error.start + 1} of the line") from None


def _object(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be a JSON object, but is {json.dumps(value)[:60]}")
    return Record(where, value)


def _json_lines(path: Path, tick: Tick) -> Iterator[Record]:
    for number, line in _lines(path, tick):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON, perhaps cut off ({error})") from None
        yield _object(value, where)


def _json(path: Path, tick: Tick) -> Iterator[Record]:
    """An array when the first character says so, else one object a line."""
    with _opened(path, lambda count: None) as file:
        start = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
    return _json_array(path, tick) if start.startswith(b"[") else _json_lines(path, tick)


def _json_array(path: Path, tick: Tick) -> Iterator[Record]:
    """The objects of an array one by one; only the chunk that holds the current one is in memory."""
    decode = json.JSONDecoder().raw_decode
    with _opened(path, tick) as file:
        stream = io.TextIOWrapper(file, encoding="utf-8-sig")
        buffer, position, number = "", 0, 0
        while True:
            where = f"{path}, item {number + 1}"
            found = False
            if gap := (BETWEEN if number else OPENING).match(buffer, position):
                with contextlib.suppress(ValueError):  # wrong, or not yet read to its end: more text decides
                    item, position = decode(buffer, gap.end())
                    found, number = True, number + 1
            if found:
                yield _object(item, where)
                continue
            more = _read(stream, where) if len(buffer) - position <= LONGEST else ""
            if not more and (CLOSING if number else EMPTY).match(buffer, position):
                return
            if not more:
                raise InputError(f"{where}: not valid JSON, perhaps cut off")
            buffer, position = buffer[position:] + more, 0


def _read(stream: io.TextIOWrapper, where: str) -> str:
    try:
        return stream.read(CHUNK)
    except UnicodeDecodeError:
        raise InputError(f"{where} or soon after: not UTF-8") from None


def _separated(
    path: Path, tick: Tick, dialect: type[csv.Dialect], header: Sequence[str] | None = None
) -> Iterator[Record]:
    """Rows under a header (the first row unless given); one with more or fewer cells than the header is refused."""
    csv.field_size_limit(LONGEST)
    reader = csv.reader((line for _, line in _lines(path, tick)), dialect, strict=True)
    try:
        header = next(reader, []) if header is None else header
        if not header or len(set(header)) < len(header):
            raise InputError(f"{path}, line 1: must be a header with a different name for each column")
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(f"{where}: {len(cells)} cells under a header of {len(header)} columns")
            yield Record(where, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from None


def _parquet(path: Path, tick: Tick) -> Iterator[Record]:
    """Row group by row group; what stands in the columns is left to the one who reads them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number, share = 0, path.stat().st_size / max(1, file.metadata.num_rows)
            for batch in file.iter_batches():
                tick(round(batch.num_rows * share))
                for values in batch.to_pylist():
                    number += 1
                    yield Record(f"{path}, row {number}", values)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}); fetch it again") from None


DIALECTS: dict[str, type[csv.Dialect]] = {".csv": csv.excel, ".tsv": csv.excel_tab}
READERS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".json": _json,
    **{suffix: partial(_separated, dialect=dialect) for suffix, dialect in DIALECTS.items()},
    ".parquet": _parquet,
}
