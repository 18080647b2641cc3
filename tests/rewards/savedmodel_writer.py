"""Writes the variables of a SavedModel as TensorFlow does, byte by byte, for tests of the reader."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from alol.rewards.savedmodel import GRAPH, MAGIC

RESTART = 4  # keys between two that are written whole


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(items: list[tuple[bytes, bytes]]) -> bytes:
    out, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(items):
        shared = 0
        if i % RESTART == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(last), len(key)) and last[shared] == key[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return out + b"".join(struct.pack("<I", at) for at in restarts) + struct.pack("<I", len(restarts))


def table(items: list[tuple[bytes, bytes]], size: int) -> bytes:
    """Data blocks of `size` keys, an empty meta index, the index, the footer."""
    out, handles = b"", []

    def put(content: bytes) -> bytes:
        nonlocal out
        handle = varint(len(out)) + varint(len(content))
        out += content + b"\0" + b"\0\0\0\0"  # not compressed; the checksum is not read
        return handle

    for start in range(0, len(items), size):
        part = items[start : start + size]
        handles.append((part[-1][0], put(block(part))))
    footer = put(block([])) + put(block(handles))
    return out + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def write(folder: Path, variables: dict[str, np.ndarray], size: int = 7) -> None:
    """Variables by name, two shards; keys are those of an object graph, in which names stand as attributes."""
    data, entries, nodes = [b"", b""], {}, b""
    for i, (name, array) in enumerate(variables.items()):
        key = f"layer_with_weights-0/_{i}/.ATTRIBUTES/VARIABLE_VALUE"
        attribute = field(1, b"VARIABLE_VALUE") + field(2, name.encode()) + field(3, key.encode())
        nodes += field(1, field(1, field(1, i) + field(2, b"child")) + field(2, attribute))
        kind = {"float32": 1, "float64": 2, "float16": 19, "int64": 9}[str(array.dtype)]
        shape = b"".join(field(2, field(1, n)) for n in array.shape)
        entry = field(1, kind) + field(2, shape)
        entry += field(3, i % 2) + field(4, len(data[i % 2])) + field(5, array.nbytes) + varint(6 << 3 | 5) + b"\0" * 4
        data[i % 2] += array.tobytes()
        entries[key.encode()] = entry
    text = varint(len(nodes)) + b"\0\0\0\0" + nodes
    entries[GRAPH.encode()] = field(1, 7) + field(2, b"") + field(4, len(data[0])) + field(5, len(text))
    data[0] += text
    entries[b""] = field(1, 2) + field(3, field(1, 1))
    place = folder / "variables"
    place.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"")
    (place / "variables.index").write_bytes(table(sorted(entries.items()), size))
    for i, part in enumerate(data):
        (place / f"variables.data-{i:05d}-of-00002").write_bytes(part)
