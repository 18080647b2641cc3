"""The variables of a TensorFlow SavedModel, read without TensorFlow.

A SavedModel keeps its variables as a checkpoint bundle: `variables.index`, a sorted table (LevelDB's format) from keys
to where a tensor lies, and `variables.data-*`, the tensors' bytes. A special entry, the object graph, says which key
holds which variable. Formats: tensorflow/core/util/tensor_bundle, tensorflow/core/protobuf/{tensor_bundle,
trackable_object_graph}.proto, and LevelDB's table_format.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alol.base.errors import InputError

MAGIC = 0xDB4775248B80FB57  # the last 8 bytes of a table, little-endian
FOOTER = 48  # bytes
TRAILER = 5  # bytes behind a block: its compression and a checksum
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
DTYPES = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 3: np.dtype("<i4"), 9: np.dtype("<i8"), 19: np.dtype("<f2")}
STRING = 7
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of a protocol buffer's fields


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


class Bundle:
    """The variables of a SavedModel folder: `names` in order, `tensor(name)` from disk."""

    def __init__(self, folder: Path) -> None:
        self._index = folder / "variables" / "variables.index"
        if not self._index.is_file():
            raise InputError(f"{self._index} is missing; name the SavedModel's folder, which holds saved_model.pb")
        try:
            self._entries, shards = _entries(self._index)
            self._shards = [
                folder / "variables" / f"variables.data-{i:05d}-of-{shards:05d}" for i in range(max(shards, 1))
            ]
            self._keys = dict(_variables(self._string(GRAPH)))
        except (IndexError, struct.error, KeyError, UnicodeDecodeError, ValueError) as error:
            raise InputError(f"{self._index} is damaged or no checkpoint ({error!r}); fetch it again") from None

    @property
    def names(self) -> list[str]:
        """The variables' own names, such as `model/roberta/pooler/dense/kernel`."""
        return list(self._keys)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[self._keys[name]].shape

    def tensor(self, name: str) -> np.ndarray:
        """The variable as float32."""
        entry = self._entries[self._keys[name]]
        if entry.dtype not in DTYPES:
            raise InputError(f"{self._index}: variable {name} has the type {entry.dtype}, which is no number")
        dtype = DTYPES[entry.dtype]
        if entry.size != dtype.itemsize * int(np.prod(entry.shape)):
            raise InputError(f"{self._index}: variable {name} has {entry.size} bytes for the shape {entry.shape}")
        return np.frombuffer(self._read(entry), dtype).reshape(entry.shape).astype(np.float32)

    def _read(self, entry: Entry) -> bytes:
        path = self._shards[entry.shard]
        if not path.is_file():
            raise InputError(f"{path} is missing; fetch the SavedModel again")
        with path.open("rb") as file:
            file.seek(entry.offset)
            data = file.read(entry.size)
        if len(data) < entry.size:
            raise InputError(f"{path} is cut off; fetch the SavedModel again")
        return data

    def _string(self, key: str) -> bytes:
        """A tensor that is one text: its length, a checksum, its bytes."""
        data = self._read(self._entries[key])
        length, start = _varint(data, 0)
        return data[start + 4 : start + 4 + length]


def _entries(path: Path) -> tuple[dict[str, Entry], int]:
    """Key -> entry, and the number of shards, which the entry of the empty key holds."""
    data = path.read_bytes()
    if len(data) < FOOTER or struct.unpack_from("<Q", data, len(data) - 8)[0] != MAGIC:
        raise InputError(f"{path} is cut off or no checkpoint index; fetch it again")
    footer = data[-FOOTER:]
    position = _varint(footer, _varint(footer, 0)[1])[1]  # behind the handle of the meta index
    entries, shards = {}, 1
    for _, handle in _block(data, *_handle(footer, position), path):
        for key, value in _block(data, *_handle(handle, 0), path):
            if key == b"":
                shards = next((number for field, number in _fields(value) if field == 1), 1)
            else:
                entries[key.decode()] = _entry(value)
    return entries, shards


def _handle(data: bytes, position: int) -> tuple[int, int]:
    offset, position = _varint(data, position)
    return offset, _varint(data, position)[0]


def _block(data: bytes, offset: int, size: int, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key says how much of its start it shares with the one before."""
    if offset + size + TRAILER > len(data):
        raise InputError(f"{path} is cut off; fetch it again")
    if data[offset + size]:
        raise InputError(f"{path} is compressed, as TensorFlow does not write it; save the model again")
    block = data[offset : offset + size]
    end = size - 4 * (struct.unpack_from("<I", block, size - 4)[0] + 1)  # restart points and their number
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        fresh, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + fresh]
        position += fresh
        yield key, block[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, and where it ends."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protocol buffer; a message in it is its bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == VARINT:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        if kind == BYTES:
            length, position = _varint(message, position)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {kind}")
        part = message[position : position + length]
        if len(part) < length:
            raise ValueError("a message is cut off")
        position += length
        yield tag >> 3, part


def _entry(message: bytes) -> Entry:
    """BundleEntryProto: dtype = 1, shape = 2, shard_id = 3, offset = 4, size = 5."""
    found = dict(_fields(message))
    dims = [dict(_fields(dim)).get(1, 0) for field, dim in _fields(found.get(2, b"")) if field == 2]
    return Entry(found.get(1, 0), tuple(dims), found.get(3, 0), found.get(4, 0), found.get(5, 0))


def _variables(graph: bytes) -> Iterator[tuple[str, str]]:
    """Name and key of each variable.

    TrackableObjectGraph: nodes = 1; of a node: attributes = 2; of an attribute: full_name = 2, checkpoint_key = 3.
    """
    for field, node in _fields(graph):
        for number, attribute in _fields(node) if field == 1 else ():
            if number == 2:
                found = dict(_fields(attribute))
                if found.get(2) and found.get(3):
                    yield found[2].decode().removesuffix(":0"), found[3].decode()
