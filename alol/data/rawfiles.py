"""Raw files as streams of rows: JSON lines, JSON arrays and tables, CSV, TSV, Parquet and Arrow, some also gzipped.

Every row comes with its place (file and line), so that whoever finds a mistake can name it. Nothing is read whole, and
no line, row or JSON value is longer than `bounded` says.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from alol.base.errors import InputError, first_line
from alol.data import rawjson
from alol.data.rawtext import LONGEST, QUOTING, Record, Tick, lines, returns, too_long

BATCH_ROWS = 4096  # of a Parquet or Arrow file, read at once
ARROW_FILE = b"ARROW1"  # what an Arrow file of the random access format starts with

Reader = Callable[[Path, Tick], Iterator[Record]]


def check_name(raw: Path, name: str) -> None:
    """Raises InputError unless `name` means something below `raw`."""
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InputError(f"'{name}' is not a path below {raw}; name raw files relative to that folder")


def find(raw: Path, name: str) -> Path:
    """The raw file `name`, which must lie below `raw`; raises InputError when it doesn't or is missing."""
    check_name(raw, name)
    if not (raw / name).is_file():
        same = sorted(path.relative_to(raw).as_posix() for path in raw.rglob(f"{PurePosixPath(name).name}*"))
        there = f"; there is: {', '.join(same[:3])}" if same else ""
        raise InputError(f"{raw / name} is missing; check `source` and `clean` in the task's file{there}")
    return raw / name


def records(path: Path, header: Sequence[str] | None = None, title: str | None = None) -> Iterator[Record]:
    """The rows of a .jsonl, .json (an array, one object a line, or a table), .csv, .tsv, .parquet or .arrow file.

    The text files may end in .gz. The entries of a JSON table have their keys as `id`. A .csv or .tsv file starts with
    the names of its columns, unless they are given as `header`. With a `title` the bytes read are shown in a progress
    bar. Raises InputError naming the file and the line that cannot be read.
    """
    suffix = kind(path)
    if suffix not in READERS:
        raise InputError(f"{path}: unknown kind of file; known: {', '.join(READERS)}")
    reader = READERS[suffix] if header is None else partial(READERS[suffix], header=header)
    return reader(path, lambda count: None) if title is None else _shown(reader, path, title)


def kind(path: Path) -> str:
    """The ending of a file's name, without .gz; one of READERS where it can be read."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _shown(reader: Reader, path: Path, title: str) -> Iterator[Record]:
    size = path.stat().st_size if path.is_file() else None
    with tqdm(desc=title, total=size, unit="B", unit_scale=True, disable=None) as bar:
        yield from reader(path, bar.update)


def column(record: Record, name: str) -> Any:
    """The value of a column; raises InputError naming the columns that there are."""
    if name not in record.values:
        there = ", ".join(_brief(str(other)) for other in list(record.values)[:30])
        raise InputError(f"{record.where}: no column '{name}'; there are: {there}")
    return record.values[name]


def _brief(words: str) -> str:
    """What a file or a library says, as it may stand in a message: not too long, without control characters."""
    return words[:200] if words.isprintable() else ascii(words[:200])[1:-1]


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
    except (TypeError, ValueError, RecursionError):
        raise InputError(f"{record.where}: column '{name}' holds {type(value).__name__}, which JSON cannot") from None
    return value


def number(value: float, record: Record, name: str) -> float:
    """A number of a column as a float; raises InputError for an integer that is too large for one."""
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{record.where}: column '{name}' has a number that is too large") from None


def _separated(path: Path, tick: Tick, kind: str, header: Sequence[str] | None = None) -> Iterator[Record]:
    """Rows under a header (the first row unless given); one with more or fewer cells than the header is refused."""
    longest, quoting = LONGEST.get(), QUOTING.get()[kind]
    first, size, line = 1, 0, ""  # of the row that is read: the number of its first line, its length, its last line

    def texts() -> Iterator[str]:
        """The lines, of which a row may have several: together no more than one may have."""
        nonlocal first, size, line
        for number, line in lines(path, tick):
            if size and quoting == "line":
                raise InputError(f"{path}, line {first}: {_unclosed(kind)}")
            first = first if size else number
            size += len(line)
            if size > longest:
                raise too_long(f"{path}, line {number}", "has lost a quote")
            if "\0" in line:
                raise InputError(f"{path}, line {number}: has a NUL byte, so that it is no text")
            yield line

    csv.field_size_limit(longest)
    quotes = csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL
    reader = csv.reader(texts(), delimiter=DELIMITERS[kind], quoting=quotes, strict=True)
    try:
        header = next(reader, []) if header is None else header
        size = 0
        if not header or len(set(header)) < len(header):
            raise InputError(f"{path}, line 1: must be a header with a different name for each column")
        for cells in reader:
            size = 0
            where = f"{path}, line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(f"{where}: {len(cells)} cells under a header of {len(header)} columns")
            yield Record(where, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        where = f"{path}, line {first}" if first == reader.line_num else f"{path}, lines {first} to {reader.line_num}"
        raise InputError(f"{where}: {_broken(str(error), line, kind)}") from None


def _broken(error: str, line: str, kind: str) -> str:
    """What csv's error means and what to do about it; `line` is the last one that was read."""
    if returns(line):
        return returns(line)
    if "end of data" in error:
        return f"{error}: {_unclosed(kind)}"
    if "expected after" in error:
        return (
            "text follows the quote that closes a cell; double the quotes within quoted cells, or set "
            f"clean.quoting.{kind} to none where quotes are letters"
        )
    return error


def _unclosed(kind: str) -> str:
    more = "" if QUOTING.get()[kind] == "lines" else ", to lines where quoted cells have several lines"
    return (
        f"a cell begins with a double quote that is not closed; set clean.quoting.{kind} to none where quotes are "
        f"letters{more}, or close it"
    )


def _parquet(path: Path, tick: Tick) -> Iterator[Record]:
    """Part by part; what stands in the columns is left to the one who reads them."""
    import pyarrow.parquet as pq

    with _columns(path, "Parquet"), pq.ParquetFile(path, page_checksum_verification=True) as file:
        batches = file.iter_batches(BATCH_ROWS)
        yield from _batches(path, file.schema_arrow.names, batches, file.metadata.num_rows, tick)


def _arrow(path: Path, tick: Tick) -> Iterator[Record]:
    """An Arrow stream, as `datasets` writes it, or an Arrow file: batch by batch."""
    import pyarrow as pa

    with _columns(path, "Arrow"), pa.OSFile(str(path)) as source:
        found = source.read(len(ARROW_FILE)) == ARROW_FILE
        source.seek(0)
        if found:
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            file = pa.ipc.open_stream(source)
            batches = iter(file)
        yield from _batches(path, file.schema.names, batches, None, tick)


@contextlib.contextmanager
def _columns(path: Path, form: str) -> Iterator[None]:
    """What pyarrow finds wrong with a file becomes an InputError."""
    import pyarrow as pa

    if not path.is_file():
        raise InputError(f"{path} is missing")
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
        reason = _brief(first_line(error))
        raise InputError(f"{path} is not a readable {form} file ({reason}); fetch it again") from None


def _batches(path: Path, names: list[str], batches: Iterable[Any], total: int | None, tick: Tick) -> Iterator[Record]:
    """The rows of record batches; of the file's bytes, each row is an equal share where their number is known."""
    import pyarrow as pa

    if len(set(names)) < len(names):
        raise InputError(f"{path}: two columns have the same name")
    share, number = path.stat().st_size / max(1, total) if total is not None else 0.0, 0
    for whole in batches:
        for start in range(0, whole.num_rows, BATCH_ROWS):
            batch = whole.slice(start, BATCH_ROWS)
            tick(round(batch.num_rows * share))
            try:
                batch.validate(full=True)
                rows = batch.to_pylist()
            except (pa.ArrowException, ValueError, OverflowError) as error:
                place = f"{path}, rows {number + 1} to {number + batch.num_rows}"
                raise InputError(f"{place}: a value cannot be read ({_brief(first_line(error))})") from None
            for values in rows:
                number += 1
                yield Record(f"{path}, row {number}", values)


DELIMITERS = {"csv": ",", "tsv": "\t"}
SEPARATED = [f".{kind}" for kind in DELIMITERS]  # kinds of files whose cells are texts
READERS: dict[str, Reader] = {
    ".jsonl": rawjson.rows_of_lines,
    ".json": rawjson.rows,
    **{f".{kind}": partial(_separated, kind=kind) for kind in DELIMITERS},
    ".parquet": _parquet,
    ".arrow": _arrow,
}
