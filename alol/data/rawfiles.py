"""Raw files as streams of rows: JSON lines, JSON arrays and tables, CSV, TSV, Parquet and Arrow, some also gzipped.

Every row comes with its place (file and line), so that whoever finds a mistake can name it. Nothing is read whole, and
no line, row or JSON value is longer than `bounded` says.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from tqdm import tqdm

from alol.base.errors import InputError, first_line

CHUNK = 1 << 20  # characters of a JSON array read at once
BATCH_ROWS = 4096  # of a Parquet or Arrow file, read at once
DEEPEST = 200  # lists and tables within each other; Python fails at about a thousand
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
OPENING, BETWEEN = re.compile(r"\s*\[\s*(?!\s*\])"), re.compile(r"\s*,\s*")
EMPTY, CLOSING = re.compile(r"\s*\[\s*\]\s*$"), re.compile(r"\s*\]\s*$")
TABLE = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{')  # a JSON object whose first value is one too
ARROW_FILE = b"ARROW1"  # what an Arrow file of the random access format starts with


_longest: ContextVar[int] = ContextVar("_longest", default=1 << 24)
_quoting: ContextVar[Mapping[str, str]] = ContextVar("_quoting", default={"csv": "lines", "tsv": "line"})  # noqa: B039


@contextlib.contextmanager
def bounded(longest: int, quoting: Mapping[str, str] | None = None) -> Iterator[None]:
    """What is read within the block has lines, rows and JSON values of at most `longest` bytes (clean.max_line).

    `quoting` (clean.quoting) says what quotes enclose in a .csv and a .tsv: cells of several "lines", cells within a
    "line", or "none": they are letters then.
    """
    tokens = _longest.set(longest), _quoting.set(quoting or _quoting.get())
    try:
        yield
    finally:
        _longest.reset(tokens[0])
        _quoting.reset(tokens[1])


class Record(NamedTuple):
    """One row of a raw file; `where` is its file and line, for messages."""

    where: str
    values: dict[str, Any]


Tick = Callable[[int], object]  # told how many more bytes of the file, as it is on disk, were read
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
    longest = _longest.get()
    with _opened(path, tick) as file:
        for number, line in enumerate(iter(partial(file.readline, longest + 1), b""), 1):
            where = f"{path}, line {number}"
            if len(line) > longest:
                raise _too_long(where, "has lost its line breaks or a quote")
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{where}: not UTF-8 at byte {error.start + 1} of the line") from None


def _too_long(where: str, why: str) -> InputError:
    return InputError(f"{where}: longer than {_longest.get():,} bytes; raise clean.max_line, unless the file {why}")


def _object(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be a JSON object, but is {json.dumps(value)[:60]}")
    return Record(where, value)


def _checked(value: Any, source: str, where: str) -> Any:
    """A JSON value that can be written again: not nested too deep, no half of a surrogate pair in its texts."""
    if source.count("[") + source.count("{") > DEEPEST and _depth(value) > DEEPEST:
        raise InputError(f"{where}: nested deeper than {DEEPEST} levels")
    if SURROGATE.search(source):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{where}: has half of a surrogate pair (such as \\ud800), which is no character; take it out"
            ) from None
    return value


def _depth(value: Any) -> int:
    """How many lists and tables are within each other."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def parsed(text: str, where: str) -> Any:
    """The JSON value that a text holds; raises InputError naming the place."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise InputError(f"{where}: nested deeper than {DEEPEST} levels") from None
    except ValueError as error:
        raise InputError(f"{where}: {_returns(text) or f'not valid JSON, perhaps cut off ({error})'}") from None
    return _checked(value, text, where)


def document(path: Path) -> Any:
    """The one JSON value that a file holds; raises InputError as `records`."""
    longest = _longest.get()
    with _opened(path, lambda count: None) as file:
        content = file.read(longest + 1)
    if len(content) > longest:
        raise _too_long(str(path), "is another one than it should be")
    try:
        return parsed(content.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start + 1}") from None


def _json_lines(path: Path, tick: Tick) -> Iterator[Record]:
    for number, line in _lines(path, tick):
        if line.strip():
            where = f"{path}, line {number}"
            yield _object(parsed(line, where), where)


def _json(path: Path, tick: Tick) -> Iterator[Record]:
    """An array when the first character says so; a table of objects; else one object a line."""
    with _opened(path, lambda count: None) as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        return _json_items(path, tick, _ARRAY)
    if TABLE.match(start.decode("utf-8", "replace")) and _is_table(path):
        return _json_items(path, tick, _TABLE)
    return _json_lines(path, tick)


def _is_table(path: Path) -> bool:
    """Whether an object of objects is the whole file, rather than the first of its lines."""
    try:
        lines = (line for _, line in _lines(path, lambda count: None) if line.strip())
        first, second = next(lines), next(lines, None)
        value = json.loads(first)
    except (InputError, ValueError, RecursionError):  # more than a line: no JSON lines, whatever it is
        return True
    return second is None and all(isinstance(item, dict) for item in value.values())


class _Items(NamedTuple):
    """How the items of a JSON value follow each other; the first group of a gap, where there is one, is a key."""

    opening: re.Pattern[str]
    between: re.Pattern[str]
    empty: re.Pattern[str]
    closing: re.Pattern[str]


_KEY = r'\s*("(?:[^"\\]|\\.)*")\s*:\s*(?=\S)'
_ARRAY = _Items(OPENING, BETWEEN, EMPTY, CLOSING)
_TABLE = _Items(
    re.compile(r"\s*\{" + _KEY),
    re.compile(r"\s*," + _KEY),
    re.compile(r"\s*\{\s*\}\s*$"),
    re.compile(r"\s*\}\s*$"),
)


def _json_items(path: Path, tick: Tick, items: _Items) -> Iterator[Record]:
    """The objects of an array or a table one by one; only the chunk that holds the current one is in memory."""
    decode, longest = json.JSONDecoder().raw_decode, _longest.get()
    with _opened(path, tick) as file:
        stream = io.TextIOWrapper(file, encoding="utf-8-sig")
        buffer, position, number = "", 0, 0
        while True:
            where = f"{path}, item {number + 1}"
            found = False
            if gap := (items.between if number else items.opening).match(buffer, position):
                try:
                    item, position = decode(buffer, gap.end())
                    found, number = True, number + 1
                except RecursionError:
                    raise InputError(f"{where}: nested deeper than {DEEPEST} levels") from None
                except json.JSONDecodeError:  # wrong, or not yet read to its end: more text decides
                    pass
                except ValueError as error:  # a number of too many digits
                    raise InputError(f"{where}: not valid JSON ({error})") from None
            if found:
                source = buffer[gap.end() : position]
                if len(source) > longest:
                    raise _too_long(where, "has lost a bracket or a quote")
                record = _object(_checked(item, source, where), where)
                yield _keyed(record, gap[1]) if gap.re.groups else record
                continue
            if len(buffer) - position > longest:
                raise _too_long(where, "has lost a bracket or a quote")
            more = _read(stream, where)
            if not more and (items.closing if number else items.empty).match(buffer, position):
                return
            if not more:
                raise InputError(f"{where}: not valid JSON, perhaps cut off")
            buffer, position = buffer[position:] + more, 0


def _keyed(record: Record, key: str) -> Record:
    """An entry of a JSON table, with its key as the column `id` where it has none."""
    return Record(record.where, {"id": parsed(key, record.where), **record.values})


def _read(stream: io.TextIOWrapper, where: str) -> str:
    try:
        return stream.read(CHUNK)
    except UnicodeDecodeError:
        raise InputError(f"{where} or soon after: not UTF-8") from None


def _separated(path: Path, tick: Tick, kind: str, header: Sequence[str] | None = None) -> Iterator[Record]:
    """Rows under a header (the first row unless given); one with more or fewer cells than the header is refused."""
    longest, quoting = _longest.get(), _quoting.get()[kind]
    first, size, line = 1, 0, ""  # of the row that is read: the number of its first line, its length, its last line

    def lines() -> Iterator[str]:
        """The lines, of which a row may have several: together no more than one may have."""
        nonlocal first, size, line
        for number, line in _lines(path, tick):
            if size and quoting == "line":
                raise InputError(f"{path}, line {first}: {_unclosed(kind)}")
            first = first if size else number
            size += len(line)
            if size > longest:
                raise _too_long(f"{path}, line {number}", "has lost a quote")
            if "\0" in line:
                raise InputError(f"{path}, line {number}: has a NUL byte, so that it is no text")
            yield line

    csv.field_size_limit(longest)
    quotes = csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL
    reader = csv.reader(lines(), delimiter=DELIMITERS[kind], quoting=quotes, strict=True)
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
    if _returns(line):
        return _returns(line)
    if "end of data" in error:
        return f"{error}: {_unclosed(kind)}"
    if "expected after" in error:
        return (
            "text follows the quote that closes a cell; double the quotes within quoted cells, or set "
            f"clean.quoting.{kind} to none where quotes are letters"
        )
    return error


def _unclosed(kind: str) -> str:
    more = "" if _quoting.get()[kind] == "lines" else ", to lines where quoted cells have several lines"
    return (
        f"a cell begins with a double quote that is not closed; set clean.quoting.{kind} to none where quotes are "
        f"letters{more}, or close it"
    )


def _returns(line: str) -> str:
    """What to do with carriage returns within a line; nothing where it has none."""
    if "\r" not in line.rstrip("\r\n"):
        return ""
    return (
        "has a carriage return within it; if lines end so, change them (tr '\\r' '\\n' < FILE > NEW), else take it out"
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
    ".jsonl": _json_lines,
    ".json": _json,
    **{f".{kind}": partial(_separated, kind=kind) for kind in DELIMITERS},
    ".parquet": _parquet,
    ".arrow": _arrow,
}
