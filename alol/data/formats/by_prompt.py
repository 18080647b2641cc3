"""Raw rows that answer one prompt, brought together from wherever they stand in a file.

A first pass counts rows per prompt, so that the second holds back unfinished prompts only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from alol.data.compact_sets import Key
from alol.data.rawfiles import Record


def together(
    records: Iterable[Record], key: Callable[[Record], Key], counts: Mapping[Key, int]
) -> Iterator[list[Record]]:
    """A prompt's rows, in the file's order, once its last one is read; prompts that are not counted are passed over."""
    waiting: dict[Key, list[Record]] = {}
    for record in records:
        name = key(record)
        count = counts.get(name)
        if count is None:
            continue
        group = waiting.setdefault(name, [])
        group.append(record)
        if len(group) == count:
            yield waiting.pop(name)
