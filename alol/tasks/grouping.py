"""Raw rows that answer one prompt, brought together from wherever they stand in a file.

A first pass counts rows per prompt, so that the second holds back unfinished prompts only.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from alol.rawfiles import Record

Key = bytes  # a digest of what a prompt is known by, to group by without holding the texts


def digest(text: str) -> Key:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def count(records: Iterable[Record], key: Callable[[Record], Key]) -> Counter[Key]:
    """Rows per prompt."""
    return Counter(map(key, records))


def together(
    records: Iterable[Record], key: Callable[[Record], Key], counts: Mapping[Key, int]
) -> Iterator[list[Record]]:
    """A prompt's rows, in the file's order, once its last one is read; prompts that are not counted are passed over."""
    waiting: dict[Key, list[Record]] = {}
    for record in records:
        name = key(record)
        if name not in counts:
            continue
        group = waiting.setdefault(name, [])
        group.append(record)
        if len(group) == counts[name]:
            yield waiting.pop(name)
