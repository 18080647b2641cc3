"""Raw rows that answer one prompt, brought together from wherever they stand in a file; and splits by prompt.

A first pass counts rows per prompt, so that the second holds back unfinished prompts only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import TypeVar

import numpy as np

from alol.data.compact_sets import Key
from alol.data.schema import TRAIN

T = TypeVar("T")


def together(records: Iterable[T], key: Callable[[T], Key], counts: Mapping[Key, int]) -> Iterator[list[T]]:
    """A prompt's rows, in the file's order, once its last one is read; prompts that are not counted are passed over."""
    waiting: dict[Key, list[T]] = {}
    for record in records:
        name = key(record)
        count = counts.get(name)
        if count is None:
            continue
        group = waiting.setdefault(name, [])
        group.append(record)
        if len(group) == count:
            yield waiting.pop(name)


def split_off(keys: Mapping[Key, int], shares: Mapping[str, float], seed: int) -> Callable[[Key], str]:
    """The split of each key: the smallest seeded hashes leave the training split, the nearest number to each share.

    A key's place depends on the set of keys and the seed, not on the order of the file.
    """
    salt = seed.to_bytes(16, "big", signed=True)

    def place(key: Key) -> int:
        return int.from_bytes(blake2b(key, key=salt, digest_size=16).digest()[:8], "big")

    if not shares:
        return lambda key: TRAIN
    order = np.sort(np.fromiter(map(place, keys), np.uint64, len(keys)))
    ends: list[tuple[int, str]] = []  # hashes below are of this split
    start = 0
    for split, share in shares.items():
        start += max(1, math.floor(share * len(keys) + 0.5))
        ends.append((int(order[start]) if start < len(order) else 1 << 64, split))
    return lambda key: next((split for end, split in ends if place(key) < end), TRAIN)
