"""The files that one name of a task's file means: a file, a pattern of shards, a folder, or what `datasets` saved.

`train-*.parquet` takes all shards of a split, in the order of their names. What would quietly be a part of the data
(one shard of several), or more than was meant (a folder with several splits), is refused.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from alol.base.errors import InputError
from alol.data import rawfiles, rawjson
from alol.data.rawfiles import READERS, SEPARATED, Record

logger = logging.getLogger(__name__)

SAVED, SPLITS = "state.json", "dataset_dict.json"  # of datasets.save_to_disk: one split, a folder of splits
NOTES = {SAVED, SPLITS, "dataset_info.json", "dataset_infos.json"}
OF = re.compile(r"(.*?)(\d+)(-of-)(\d+)(\D.*)?")  # train-00000-of-00003.parquet
COUNTED = re.compile(r"(.*?)(\d{5,}|0\d{3})(\D.*)")  # part-0001.jsonl, but not a year
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,17})(?:\.\d+)?(?:[eE][+-]?\d{1,3})?")  # as in JSON: 007 is none


def find(raw: Path, name: str) -> list[Path]:
    """The files below `raw` that `name` means, at least one; raises InputError where that is not clear."""
    rawfiles.check_name(raw, name)
    path = raw / name
    if path.is_dir():
        return _folder(path, name)
    if path.is_file() or not re.search(r"[*?\[]", name):
        return [_lone(rawfiles.find(raw, name), name)]
    if re.search(r"[^/]\*\*|\*\*[^/]", name):
        raise InputError(f"'{name}' has ** beside other letters; it stands for whole folders, as in **/*.jsonl")
    found = _visible(raw, raw.glob(name))
    if not found:
        raise InputError(f"{path}: no file has such a name; check `source` and `clean` in the task's file")
    return _alike(raw, found, name)


def records(paths: Sequence[Path], numeric: frozenset[str] = frozenset()) -> Iterator[Record]:
    """The rows of the files, one after the other.

    In .csv and .tsv files the cells of `numeric` columns are numbers, or None when empty.
    """
    for path in paths:
        columns = numeric if rawfiles.kind(path) in SEPARATED else frozenset()
        for record in rawfiles.records(path):
            for name in columns & record.values.keys():
                record.values[name] = _number(record.values[name])
            yield record


def numeric_columns(paths: Sequence[Path], among: Collection[str] | None = None) -> frozenset[str]:
    """The columns of .csv and .tsv files in which every cell that is not empty is a number; `among`: of these alone."""
    files = [path for path in paths if rawfiles.kind(path) in SEPARATED]
    texts: set[str] = set()
    numbers: set[str] = set()
    if among is None or among:
        for record in records(files):
            for name in record.values if among is None else among:
                cell = record.values.get(name)
                if cell and name not in texts:
                    (numbers if NUMBER.fullmatch(cell) and math.isfinite(float(cell)) else texts).add(name)
    return frozenset(numbers - texts)


def _number(cell: str) -> float | int | None:
    if not cell:
        return None
    return int(cell) if cell.lstrip("-").isdecimal() else float(cell)


def _visible(top: Path, paths: Iterator[Path]) -> list[Path]:
    return sorted(
        path
        for path in paths
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(top).parts)
    )


def _folder(folder: Path, name: str) -> list[Path]:
    if (folder / SPLITS).is_file():
        splits = ", ".join(f"{name}/{path.parent.name}" for path in sorted(folder.glob(f"*/{SAVED}")))
        raise InputError(f"{folder} holds several splits; name one of them: {splits or 'none is there'}")
    if (folder / SAVED).is_file():
        return _saved(folder)
    found = [
        path
        for path in _visible(folder, folder.rglob("*"))
        if rawfiles.kind(path) in READERS and path.name not in NOTES
    ]
    if not found:
        raise InputError(f"{folder} holds no file of a known kind; known: {', '.join(READERS)}")
    return _alike(folder, found, name)


def _saved(folder: Path) -> list[Path]:
    """The shards of a data set that `save_to_disk` wrote, as its state names them."""
    state: Any = rawjson.document(folder / SAVED)
    listed = state.get("_data_files") if isinstance(state, dict) else None
    names = [item.get("filename") for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise InputError(f"{folder / SAVED}: must name the data set's files in _data_files; save the data set again")
    if state.get("_indices_data_files"):
        raise InputError(f"{folder}: its rows are chosen by an index; save it again after flatten_indices()")
    return [rawfiles.find(folder, name) for name in names]


def _alike(top: Path, paths: list[Path], name: str) -> list[Path]:
    """The files, which must be of one kind and of one split."""
    kinds = sorted({rawfiles.kind(path) for path in paths})
    if len(kinds) > 1:
        raise InputError(f"'{name}' means files of several kinds ({', '.join(kinds)}); name one, such as *{kinds[0]}")
    splits = {}
    for path in paths:
        words = re.split(r"[^a-z]+", path.relative_to(top).as_posix().lower())
        splits.update({SPLIT_WORDS[word]: path for word in words if word in SPLIT_WORDS})
    if len(splits) > 1:
        example = next(iter(splits.values())).name
        raise InputError(
            f"'{name}' means files of several splits ({', '.join(sorted(splits))}), such as {example}; "
            "name the files of one split with a pattern, such as train-*"
        )
    for path in paths:
        _of(path)
    return paths


def _of(path: Path) -> list[str]:
    """The names of the shards that a file belongs to; warns of those that are missing."""
    match = OF.fullmatch(path.name)
    if match is None:
        return [path.name]
    start, number, word, count, end = match.groups()
    names = [f"{start}{i:0{len(number)}d}{word}{count}{end or ''}" for i in range(min(int(count), 100_000))]
    there = [name for name in names if (path.parent / name).is_file()]
    if len(there) < len(names) and path.name == there[0]:
        logger.warning("%s: %d of %d shards are here", path.parent / there[0], len(there), len(names))
    return there


def _lone(path: Path, name: str) -> Path:
    """A file that was named alone; raises InputError where it is one of several shards."""
    siblings, pattern = _of(path), OF.sub(r"\1*\3\4\5", path.name)
    if len(siblings) <= 1 and (match := COUNTED.fullmatch(path.name)):
        start, number, end = match.groups()
        pattern = f"{start}{'[0-9]' * len(number)}{end}"
        siblings = [other.name for other in path.parent.glob(pattern)]
        pattern = f"{start}*{end}"
    if len(siblings) > 1:
        whole = Path(name).with_name(pattern).as_posix()
        raise InputError(f"{path} is one of {len(siblings)} shards; write {whole}, which takes all of them")
    return path
