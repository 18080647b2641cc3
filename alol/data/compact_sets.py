"""Sets and counts of texts that are known by a digest, 16 bytes each however long the texts are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

Key = bytes
SIZE = 16  # bytes; two texts with one digest are not to be expected among any number of rows
RECENT = 1 << 16  # keys kept in a Python set, which is larger but can be added to


def digest(text: str) -> Key:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=SIZE).digest()


def _sorted(keys: bytes) -> np.ndarray:
    return np.sort(np.frombuffer(keys, f"S{SIZE}"))


def _find(keys: np.ndarray, key: Key) -> int | None:
    """The index of a key among sorted ones."""
    # numpy drops a text's zero bytes at the end, of both that it compares
    place = int(np.searchsorted(keys, key))
    return place if place < len(keys) and keys[place] == key.rstrip(b"\0") else None


class Counts(Mapping[Key, int]):
    """How often each key came, in the keys' order."""

    def __init__(self, keys: Iterable[Key]) -> None:
        joined = bytearray()
        for key in keys:
            joined += key
        self._keys, counts = np.unique(np.frombuffer(joined, f"S{SIZE}"), return_counts=True)
        self._counts = counts.astype(np.uint32)

    def select(self, wanted: Callable[[Key], bool]) -> Counts:
        """Those of the keys that are wanted."""
        chosen = np.fromiter(map(wanted, self), bool, len(self))
        result = Counts(())
        result._keys, result._counts = self._keys[chosen], self._counts[chosen]
        return result

    def __getitem__(self, key: Key) -> int:
        place = _find(self._keys, key)
        if place is None:
            raise KeyError(key)
        return int(self._counts[place])

    def __iter__(self) -> Iterator[Key]:
        return (key.ljust(SIZE, b"\0") for key in self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def total(self) -> int:
        return int(self._counts.sum())


class Seen:
    """A set of keys that only grows."""

    def __init__(self) -> None:
        self._recent: set[Key] = set()
        self._sorted = _sorted(b"")

    def add(self, key: Key) -> bool:
        """Whether the key is new."""
        if key in self._recent or _find(self._sorted, key) is not None:
            return False
        self._recent.add(key)
        if len(self._recent) >= max(RECENT, len(self._sorted) // 8):
            self._sorted = np.sort(np.concatenate([self._sorted, _sorted(b"".join(self._recent))]))
            self._recent = set()
        return True

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)
