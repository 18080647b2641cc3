"""Raw files to the pipeline's rows: a task's format reads them, this checks them and writes one table per split.

Rows stream from the files to Parquet. What only a format can know (a file's line, a column) it checks itself.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from alol.base.errors import InputError, ParameterError
from alol.base.files import replacing
from alol.config import build
from alol.config.sections import Clean, Labels, NearDuplicates
from alol.data import formats, rawfiles, rawtext, schema, shards
from alol.data.compact_sets import Seen, digest
from alol.data.formats import Row
from alol.data.formats.conversations import number
from alol.data.near_duplicates import HeldOut
from alol.data.schema import SPLITS, TEST, TRAIN

logger = logging.getLogger(__name__)


def clean(task: str, settings: Clean, raw: Path, target: Path) -> None:
    """Writes {train,validation,test}.parquet, and labels/<name>.parquet and texts/<name>.parquet, below `target`.

    All of them or nothing; `texts` are what the format gives beside the splits.

    Raises InputError naming the file and line, or the prompt, that is wrong, and the split that has no rows.
    """
    if not raw.is_dir():
        raise InputError(f"{raw} is missing; run `dvc repro download` (or `python -m stages.download --task {task}`)")
    with rawtext.bounded(settings.max_line, vars(settings.quoting)), replacing(target) as folder:
        splits = formats.get(settings.format).read(raw, options(settings))
        folder.mkdir()
        for split, rows in _apart(splits, folder, settings.near_duplicates):
            kept = where(rows, settings.where) if split == TRAIN and settings.where else rows
            limit = settings.limit if split == TRAIN else None
            _write_split(folder / f"{split}.parquet", checked(kept, split, limit), split, task)
        for name in sorted(set(splits) - set(SPLITS)):
            _write_split(folder / "texts" / f"{name}.parquet", checked(splits[name], name, None), name, task)
        for name, labels in settings.labels.items():
            _write_labels(folder / "labels" / f"{name}.parquet", raw, labels, f"clean.labels.{name}")


def options(settings: Clean) -> Any:
    """The options of the task's format; raises ParameterError naming the key that is wrong."""
    form = formats.get(settings.format)
    built = build.build(form.options, settings.options, "clean.options")
    form.check(built)
    return built


def _apart(
    splits: dict[str, Iterator[Row]], folder: Path, settings: NearDuplicates
) -> Iterator[tuple[str, Iterable[Row]]]:
    """Each split and its rows, to be written below `folder` before the next: first what others must not be like."""
    if settings.similarity is None:
        yield from ((split, splits[split]) for split in SPLITS)
        return
    held_out = HeldOut(settings.words)
    for split in reversed(SPLITS):
        yield split, splits[split] if split == TEST else held_out.without(splits[split], split, settings)
        if split != TRAIN:
            for rows in schema.read(folder / f"{split}.parquet", ["prompt_id", "prompt", "rank"]):
                for row in rows:
                    if row["rank"] == 0:
                        held_out.add(row["prompt_id"], row["prompt"])


def where(rows: Iterable[Row], intervals: Mapping[str, Sequence[float | None]]) -> Iterator[Row]:
    """The rows of which every one of these numbers lies in its interval, ends included; ranks begin anew at 0.

    Numbers are those of a row's context; a row without one of them is left out. ParameterError for a number that no row
    has. Says how many responses were kept.
    """
    lacking, others = Counter[str](), set[str]()
    kept = count = rank = 0
    current = None
    try:
        for row in rows:
            count += 1
            there = {key: value for key, given in row["context"].items() if (value := number(given)) is not None}
            lacking.update(key for key in intervals if key not in there)
            others |= there.keys()
            if not all(key in there and _within(there[key], *ends) for key, ends in intervals.items()):
                continue
            kept += 1
            rank = rank + 1 if row["prompt_id"] == current else 0
            current = row["prompt_id"]
            yield {**row, "rank": rank}
    finally:
        without = "".join(f"; {found} have no {key}" for key, found in lacking.items())
        logger.info("clean.where keeps %d of %d training responses%s", kept, count, without)
    for key in intervals:
        if key not in others:
            listed = ", ".join(sorted(others)) or "none"
            raise ParameterError(f"clean.where.{key}", f"is no number of a training response; there are: {listed:.300}")


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or low <= value) and (high is None or value <= high)


def _write_split(path: Path, rows: Iterator[Row], split: str, task: str) -> None:
    prompts: Counter[str] = Counter()
    responses = 0
    with schema.writing(path, schema.RESPONSES) as writer:
        for row in tqdm(rows, desc=f"clean {split}", unit=" rows", disable=None):
            writer.write([row])
            prompts[row["subset"]] += row["rank"] == 0
            responses += 1
        if not responses:
            raise InputError(
                f"the {split} split of '{task}' has no rows; check tasks/{task}.yaml: clean, and its raw files"
            )
    subsets = ", ".join(f"{name} {count}" for name, count in prompts.items())
    logger.info("%-10s %8d prompts %9d responses  (%s)", split, prompts.total(), responses, subsets)


def checked(rows: Iterable[Row], split: str, limit: int | None) -> Iterator[Row]:
    """The rows of the first `limit` prompts, after checking each.

    The rows of one prompt must follow each other with the ranks 0, 1, 2, ...; a prompt must not be empty nor its id
    come back later; an empty response is one that says nothing, which a format may refuse.
    """
    seen = Seen()
    current, rank = None, 0
    for row in rows:
        where = f"{split}, prompt '{row['prompt_id']}'"
        if row["prompt_id"] != current:
            if not seen.add(digest(row["prompt_id"])):
                raise InputError(f"{where}: its rows are not together, or two prompts have this id")
            if limit is not None and len(seen) > limit:
                return
            current, rank = row["prompt_id"], 0
        if row["rank"] != rank:
            raise InputError(f"{where}: a row has rank {row['rank']}, where {rank} must follow")
        if not row["prompt"].strip():
            raise InputError(f"{where}: the prompt is empty")
        rank += 1
        yield row
    if (repeated := seen.repeated()) is not None:
        raise InputError(
            f"{split}: its prompts number {repeated[0]:,} and {repeated[1]:,} (counted from 0) have one id, or are one "
            "prompt whose rows are not together"
        )


def _write_labels(path: Path, raw: Path, labels: Labels, where: str) -> None:
    """The rows whose label stands in one of the classes; the rest is counted by label and left out."""
    check_labels(labels, where)
    if labels.score is not None:
        return _write_scores(path, raw, labels, where)
    indices = class_of(labels.classes, where)
    kept: Counter[int] = Counter()
    other: Counter[str] = Counter()
    empty: list[str] = []
    with schema.writing(path, schema.LABELLED) as writer:
        for record in tqdm(shards.records(shards.find(raw, labels.file)), desc=f"clean {path.stem}", disable=None):
            label = str(rawfiles.column(record, str(labels.label)))
            if label not in indices:
                other[label] += 1
                continue
            if not _says_something(record, labels):
                empty.append(record.where)
                continue
            kept[indices[label]] += 1
            writer.write([{**_texts(record, labels), "label": indices[label]}])
        for index, values in enumerate(labels.classes):
            if not kept[index]:
                found = ", ".join(f"'{label}'" for label, _ in other.most_common(8)) or "none"
                raise InputError(f"{where}: {labels.file} has no label of class {values}; other labels: {found}")
    counts = ", ".join(f"class {index}: {count}" for index, count in sorted(kept.items()))
    dropped = f"; left out: {other.total()} ({', '.join(sorted(other)[:8])})" if other else ""
    dropped += f"; left out as empty: {len(empty)} (the first: {empty[0]})" if empty else ""
    logger.info("labels/%s  %d rows (%s)%s", path.stem, kept.total(), counts, dropped)


def _write_scores(path: Path, raw: Path, labels: Labels, where: str) -> None:
    """The rows with a number; those with an empty cell or an empty text are counted and left out."""
    left_out: Counter[str] = Counter()
    found: list[float] = []
    with schema.writing(path, schema.SCORED) as writer:
        for record in tqdm(shards.records(shards.find(raw, labels.file)), desc=f"clean {path.stem}", disable=None):
            score = _score(record, str(labels.score))
            if score is None or not _says_something(record, labels):
                left_out["a score" if score is None else "a text"] += 1
                continue
            found.append(score)
            writer.write([{**_texts(record, labels), "score": score}])
        if len(set(found)) < 2:
            given = f"the number {found[0]:g} alone" if found else "no number"
            raise InputError(f"{where}: column '{labels.score}' of {labels.file} has {given}; name one that varies")
    dropped = "".join(f"; {count} without {what} left out" for what, count in sorted(left_out.items()))
    spread = f"from {min(found):g} to {max(found):g}"
    logger.info("labels/%s  %d rows (scores %s)%s", path.stem, len(found), spread, dropped)


def _score(record: rawfiles.Record, name: str) -> float | None:
    """The number of a cell, also one that is written as a text; None for an empty one."""
    value = rawfiles.column(record, name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if (score := number(value)) is None:
        raise InputError(f"{record.where}: column '{name}' must be a number, but is {value!r:.60}")
    return float(score)


def _says_something(record: rawfiles.Record, labels: Labels) -> bool:
    """Whether the response is no empty text: published collections have a few, from which nothing can be learnt."""
    value = rawfiles.column(record, labels.response)
    return not isinstance(value, str) or bool(value.strip())


def class_of(classes: list[list[Any]], where: str) -> dict[str, int]:
    """Label value, as text, to class; raises ParameterError for fewer than two classes or a value in two of them."""
    if len(classes) < 2:
        raise ParameterError(f"{where}.classes", "must be a list of label values for each of at least two classes")
    indices: dict[str, int] = {}
    for index, values in enumerate(classes):
        for value in map(str, values):
            if value in indices:
                raise ParameterError(f"{where}.classes", f"has '{value}' twice")
            indices[value] = index
    return indices


def check_labels(labels: Labels, where: str) -> None:
    """Raises ParameterError unless there is either a label with its classes or a score."""
    if labels.score is not None:
        if labels.label is not None or labels.classes:
            raise ParameterError(f"{where}.score", "stands beside label and classes; give one or the other")
        return
    class_of(labels.classes, where)
    if labels.label is None:
        raise ParameterError(f"{where}.label", "is not set; name the column of the label, or that of a `score`")


def _texts(record: rawfiles.Record, labels: Labels) -> dict[str, Any]:
    return {
        "prompt": rawfiles.text(record, labels.prompt) if labels.prompt else "",
        "response": rawfiles.text(record, labels.response),
        "context": {key: rawfiles.plain(record, column) for key, column in labels.context.items()},
    }
