"""JSON in raw files: a value, a value a line, and arrays and tables whose items are read one by one."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from alol.base.errors import InputError
from alol.data.rawtext import LONGEST, Record, Tick, lines, opened, returns, too_long

CHUNK = 1 << 20  # characters of a JSON array read at once
DEEPEST = 200  # lists and tables within each other; Python fails at about a thousand
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
OPENING, BETWEEN = re.compile(r"\s*\[\s*(?!\s*\])"), re.compile(r"\s*,\s*")
EMPTY, CLOSING = re.compile(r"\s*\[\s*\]\s*$"), re.compile(r"\s*\]\s*$")
TABLE = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{')  # a JSON object whose first value is one too


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
        raise InputError(f"{where}: {returns(text) or f'not valid JSON, perhaps cut off ({error})'}") from None
    return _checked(value, text, where)


def document(path: Path) -> Any:
    """The one JSON value that a file holds; raises InputError as `records`."""
    longest = LONGEST.get()
    with opened(path, lambda count: None) as file:
        content = file.read(longest + 1)
    if len(content) > longest:
        raise too_long(str(path), "is another one than it should be")
    try:
        return parsed(content.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start + 1}") from None


def rows_of_lines(path: Path, tick: Tick) -> Iterator[Record]:
    for number, line in lines(path, tick):
        if line.strip():
            where = f"{path}, line {number}"
            yield _object(parsed(line, where), where)


def rows(path: Path, tick: Tick) -> Iterator[Record]:
    """An array when the first character says so; a table of objects; else one object a line."""
    with opened(path, lambda count: None) as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        return _json_items(path, tick, _ARRAY)
    if TABLE.match(start.decode("utf-8", "replace")) and _is_table(path):
        return _json_items(path, tick, _TABLE)
    return rows_of_lines(path, tick)


def _is_table(path: Path) -> bool:
    """Whether an object of objects is the whole file, rather than the first of its lines."""
    try:
        texts = (line for _, line in lines(path, lambda count: None) if line.strip())
        first, second = next(texts), next(texts, None)
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
    decode, longest = json.JSONDecoder().raw_decode, LONGEST.get()
    with opened(path, tick) as file:
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
                    raise too_long(where, "has lost a bracket or a quote")
                record = _object(_checked(item, source, where), where)
                yield _keyed(record, gap[1]) if gap.re.groups else record
                continue
            if len(buffer) - position > longest:
                raise too_long(where, "has lost a bracket or a quote")
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
