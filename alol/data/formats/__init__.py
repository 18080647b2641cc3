"""Formats: how a task's raw files become rows. A format is a value in a literal dict; nothing registers itself.

May import: base, config, the rest of data. A new format is a module with `FORMAT`, named in `_formats`
(docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from alol.base.errors import known

Row = dict[str, Any]  # the columns of alol.data.schema.RESPONSES
Metric = Callable[[Sequence[str], Sequence[str], Sequence[dict]], list[float]]  # prompts, responses, contexts


@dataclass(frozen=True)
class Format:
    """`read(raw folder, options)` gives, for each split, its rows, prompt by prompt; `metrics` are the task's own.

    What it gives beside the splits are further texts, for rewards that are fitted to them.
    """

    options: type
    read: Callable[[Path, Any], dict[str, Iterator[Row]]]
    metrics: dict[str, Metric]
    check: Callable[[Any], None] = lambda options: None  # raises ParameterError where options do not fit together
    spread: tuple[str, ...] = ()  # those of which the standard deviation over rows is reported too


def marks(pieces: Sequence[str]) -> list[int]:
    """The column of that name for a prompt of these pieces, of which every second one is a mark."""
    return list(accumulate(map(len, pieces)))[: len(pieces) // 2 * 2]


def names() -> list[str]:
    """Those that `clean.format` may be."""
    return sorted(_formats())


def get(name: str) -> Format:
    """The format of that name; raises InputError listing the known ones."""
    if name not in _formats():
        raise known("format", name, _formats())
    return _formats()[name]


@cache
def _formats() -> dict[str, Format]:
    from alol.data.formats import chat, comet, demo, hha, knowledge, reddit, table

    return {
        "chat": chat.FORMAT,
        "comet": comet.FORMAT,
        "demo": demo.FORMAT,
        "hha": hha.FORMAT,
        "knowledge": knowledge.FORMAT,
        "reddit": reddit.FORMAT,
        "table": table.FORMAT,
    }
