"""Sets and counts of texts that are known by a digest, 16 bytes each however long the texts are.

Up to `HELD` of them lie in memory. More lie sorted in a file without a name, which goes away with the process, in the
folder of temporary files ($TMPDIR): 20 bytes each.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import BinaryIO

import numpy as np

Key = bytes
SIZE = 16  # bytes; two texts with one digest are not to be expected among any number of rows
RECORD = np.dtype([("key", f"S{SIZE}"), ("number", "<u4")])
RECENT = 1 << 16  # keys kept in a Python set, which is larger but can be added to
HELD = 1 << 20  # keys kept in memory
BLOCK = 256  # keys of a file that are read at once


def digest(text: str) -> Key:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=SIZE).digest()


def _records(keys: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    found = np.empty(len(keys), RECORD)
    found["key"], found["number"] = keys, numbers
    return found


def _counted(keys: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """A record for each different key, in their order, with how often it came: the sum of its `counts`."""
    different, places, times = np.unique(keys, return_inverse=True, return_counts=True)
    sums = times if counts is None else np.bincount(places, counts, minlength=len(different))
    return _records(different, sums)


def _by_key(found: np.ndarray) -> np.ndarray:
    return found[np.argsort(found["key"], kind="stable")]


def _find(keys: np.ndarray, key: Key) -> int | None:
    """The index of a key among sorted ones."""
    # numpy drops a text's zero bytes at the end, of both that it compares
    place = int(np.searchsorted(keys, key))
    return place if place < len(keys) and keys[place] == key.rstrip(b"\0") else None


def _file(owner: object) -> BinaryIO:
    """A file without a name, which is closed with its owner."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    weakref.finalize(owner, file.close)
    return file


class _Runs:
    """Records in a file, sorted run by run."""

    def __init__(self) -> None:
        self._file = _file(self)
        self._starts: list[np.ndarray] = []  # of each run: where the records of each first byte start in the file

    def append(self, run: np.ndarray) -> None:
        inner = np.searchsorted(run["key"], np.array([bytes([byte]) for byte in range(1, 256)], f"S{SIZE}"))
        self._starts.append(self._file.seek(0, os.SEEK_END) // RECORD.itemsize + np.array([0, *inner, len(run)]))
        self._file.write(run.tobytes())

    def parts(self) -> Iterator[np.ndarray]:
        """The records of all runs in their keys' order, those of one key in the runs' order; a first byte at a time."""
        for byte in range(256):
            found = [self._read(starts[byte], starts[byte + 1]) for starts in self._starts]
            yield _by_key(np.concatenate(found))

    def _read(self, start: int, end: int) -> np.ndarray:
        self._file.seek(int(start) * RECORD.itemsize)
        return np.frombuffer(self._file.read(int(end - start) * RECORD.itemsize), RECORD)


class _Table:
    """Records in the order of their keys, which all differ; those of a file in blocks, whose first keys are held."""

    def __init__(self, parts: Iterable[np.ndarray]) -> None:
        self._held, self._length = np.empty(0, RECORD), 0
        self._file, firsts = None, []
        for part in parts:
            self._length += len(part)
            self._held = np.concatenate([self._held, part])
            if self._length > HELD:
                firsts.append(self._write(len(self._held) // BLOCK * BLOCK))
        if self._file is not None:
            firsts.append(self._write(len(self._held)))
            self._firsts = np.concatenate(firsts)

    def _write(self, count: int) -> np.ndarray:
        """Writes so many of the records that are held; returns the first key of each block of them."""
        if self._file is None:
            self._file = _file(self)
        written, self._held = self._held[:count], self._held[count:].copy()
        self._file.write(written.tobytes())
        self._file.flush()
        return written["key"][::BLOCK].copy()

    def __len__(self) -> int:
        return self._length

    def blocks(self) -> Iterator[np.ndarray]:
        """All records, some at a time."""
        if self._file is None:
            yield self._held
            return
        for start in range(0, self._length, HELD // 16):
            yield self._block(start, HELD // 16)

    def number(self, key: Key) -> int | None:
        """That of a key, None where there is no such key."""
        block = self._held
        if self._file is not None:
            place = int(np.searchsorted(self._firsts, key, side="right")) - 1
            block = self._block(max(place, 0) * BLOCK, BLOCK)
        place = _find(block["key"], key)
        return None if place is None else int(block["number"][place])

    def _block(self, start: int, count: int) -> np.ndarray:
        size = RECORD.itemsize
        return np.frombuffer(os.pread(self._file.fileno(), count * size, start * size), RECORD)


class Counts(Mapping[Key, int]):
    """How often each key came, in the keys' order."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._table, self._total = _Table(_counts(keys)), 0
        self._total = sum(int(part["number"].sum(dtype=np.int64)) for part in self._table.blocks())

    def select(self, wanted: Callable[[Key], bool]) -> Counts:
        """Those of the keys that are wanted."""
        result = Counts(())
        result._table = _Table(
            part[np.fromiter(map(wanted, _whole(part)), bool, len(part))] for part in self._table.blocks()
        )
        result._total = sum(int(part["number"].sum(dtype=np.int64)) for part in result._table.blocks())
        return result

    def __getitem__(self, key: Key) -> int:
        number = self._table.number(key)
        if number is None:
            raise KeyError(key)
        return number

    def __iter__(self) -> Iterator[Key]:
        return (key for part in self._table.blocks() for key in _whole(part))

    def __len__(self) -> int:
        return len(self._table)

    def total(self) -> int:
        return self._total


def _counts(keys: Iterable[Key]) -> Iterator[np.ndarray]:
    """The records of the different keys in their order, in parts."""
    pending, runs = bytearray(), None
    for key in keys:
        pending += key
        if len(pending) == HELD * SIZE:
            runs = runs or _Runs()
            runs.append(_counted(np.frombuffer(pending, f"S{SIZE}")))
            pending = bytearray()
    last = _counted(np.frombuffer(pending, f"S{SIZE}"))
    if runs is None:
        yield last
        return
    runs.append(last)
    for part in runs.parts():
        yield _counted(part["key"], part["number"])


def _whole(part: np.ndarray) -> Iterator[Key]:
    """The keys of records, with the zero bytes at their ends."""
    return (key.ljust(SIZE, b"\0") for key in part["key"])


class Seen:
    """A set of keys that only grows; a key is known by its number, the first one's is 0.

    What was added when more than `HELD` were in it is compared with all others by `repeated` alone, once all are there.
    """

    def __init__(self) -> None:
        self._recent: dict[Key, int] = {}
        self._sorted = np.empty(0, RECORD)
        self._runs: _Runs | None = None
        self._length = 0

    def add(self, key: Key) -> bool:
        """Whether the key is new, as far as it is known by now."""
        if key in self._recent or _find(self._sorted["key"], key) is not None:
            return False
        self._recent[key] = self._length
        self._length += 1
        if len(self._recent) >= max(RECENT, len(self._sorted) // 8):
            self._store()
        return True

    def _store(self) -> None:
        """Puts the recent keys among the sorted ones; too many of these go into the file."""
        new = _records(np.array(list(self._recent), f"S{SIZE}"), np.fromiter(self._recent.values(), np.uint32))
        self._sorted, self._recent = _by_key(np.concatenate([self._sorted, new])), {}
        if len(self._sorted) >= HELD:
            self._runs = self._runs or _Runs()
            self._runs.append(self._sorted)
            self._sorted = np.empty(0, RECORD)

    def repeated(self) -> tuple[int, int] | None:
        """The numbers of two equal keys, of which `add` could not know; None where there are none."""
        if self._runs is not None:
            self._store()
            self._runs.append(self._sorted)
            self._sorted = np.empty(0, RECORD)
            for part in self._runs.parts():
                equal = np.flatnonzero(part["key"][1:] == part["key"][:-1])
                if len(equal):
                    return int(part["number"][equal[0]]), int(part["number"][equal[0] + 1])
        return None

    def __len__(self) -> int:
        return self._length
