"""The members of a tar archive, plain or compressed, read from its first byte to its last.

tarfile takes a damaged header for the end of the archive, and bz2 and lzma pass over what follows the compressed
stream: here either is an error. A header has a checksum; the content of a plain tar has none, nor have the records that
hold a name which the header has no room for.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from alol.base.errors import InputError

CHUNK = 1 << 20  # bytes
HEADERS = 1 << 29  # bytes of headers and padding, beside the files' content
GZIP, BZIP2, XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"  # what such a file starts with
RECORD = re.compile(rb"([1-9][0-9]*) ([^=\n]+)=")
KEYWORDS = frozenset(b"atime charset comment ctime gid gname hdrcharset linkpath mtime path size uid uname".split())


class Member(NamedTuple):
    """One entry of an archive; a folder has no stream."""

    name: str
    size: int
    stream: IO[bytes] | None


def is_plain(path: Path) -> bool:
    """Whether the file is not compressed, so that it carries no checksum of its content."""
    with path.open("rb") as file:
        return not file.read(len(XZ)).startswith((GZIP, BZIP2, XZ))


def members(path: Path, name: str, reserve: Callable[[int], None], limit: int) -> Iterator[Member]:
    """The entries in their order; `reserve` is asked for a file's bytes before it is given out.

    Raises InputError for links, special and sparse files, and what tarfile and the decompressors raise for damage.
    """
    with path.open("rb") as file, _unpacked(file) as content:
        stream = _Forward(content, limit)
        archive = tarfile.TarFile(fileobj=stream, tarinfo=_Header, encoding="utf-8")  # type: ignore[arg-type]
        while (info := archive.next()) is not None:
            if info.issparse():
                raise InputError(f"{name}: {ascii(info.name)[:80]} is a sparse file, which is not unpacked")
            if not info.isfile() and not info.isdir():
                raise InputError(f"{name}: {ascii(info.name)[:80]} is a link or a special file, which is not unpacked")
            if info.isfile():
                if info.size < 0:
                    raise tarfile.ReadError("a member of less than no bytes")
                reserve(info.size)
            yield Member(info.name, info.size, archive.extractfile(info) if info.isfile() else None)
            archive.members = []  # tarfile keeps them all
        _check_end(stream)


def _check_end(stream: _Forward) -> None:
    """One block of zeros was read; another one must follow, and nothing else."""
    count = 0
    while block := stream.read(CHUNK):
        count += len(block)
        if block.strip(b"\0"):
            raise tarfile.ReadError("bytes after the end of the archive")
    if count < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("the end of the archive is missing")


class _Header(tarfile.TarInfo):
    """A header that is damaged is an error, wherever it stands; only a block of zeros ends an archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None

    def _proc_pax(self, archive: Any) -> tarfile.TarInfo:
        """The records of an extended header must fill it; tarfile passes over what it cannot read."""
        records, start = archive.fileobj.peek(self.size), 0
        while start < self.size:
            match = RECORD.match(records, start)
            end = start + int(match[1]) if match and len(match[1]) < 9 else -1
            if match is None or not match.end() < end <= self.size or records[end - 1 : end] != b"\n":
                raise tarfile.ReadError("a damaged extended header")
            if match[2] not in KEYWORDS and b"." not in match[2]:  # makers of tar put their own name before a dot
                raise tarfile.ReadError("an unknown record in an extended header")
            if match[2] == b"size" and not records[match.end() : end - 1].isdigit():  # tarfile would take it for 0
                raise tarfile.ReadError("a size that is no number")
            start = end
        return super()._proc_pax(archive)  # type: ignore[misc]


class _Forward:
    """A stream that tarfile reads as a file: no step back, no header that fills the memory, at most `limit` bytes."""

    def __init__(self, content: IO[bytes], limit: int) -> None:
        self._content, self._position, self._ahead = content, 0, b""
        self._left = limit + HEADERS

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("a header that points backwards")
        while self._position < position and self.read(min(CHUNK, position - self._position)):
            pass

    def peek(self, size: int) -> bytes:
        self._ahead = self._read(size)
        return self._ahead

    def read(self, size: int) -> bytes:
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        if len(data) < size:
            data += self._read(size - len(data))
        self._position += len(data)
        return data

    def _read(self, size: int) -> bytes:
        if not 0 <= size <= CHUNK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self._content.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.ReadError("far more bytes than its files have")
        return data


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    start = file.read(len(XZ))
    file.seek(0)
    if start.startswith(GZIP):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if start.startswith(BZIP2):
        return io.BufferedReader(_Streams(file, bz2.BZ2Decompressor), CHUNK)
    if start.startswith(XZ):
        return io.BufferedReader(_Streams(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)), CHUNK)
    return io.BufferedReader(file, CHUNK)  # type: ignore[arg-type]


class _Streams(io.RawIOBase):
    """The content of compressed streams one after the other; anything else behind them, but zeros, is an error."""

    def __init__(self, file: IO[bytes], new: Callable[[], Any]) -> None:
        self._file, self._new, self._decompressor = file, new, new()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            data = b""
            if self._decompressor.eof:
                data = self._decompressor.unused_data.lstrip(b"\0")
                while not data:
                    block = self._file.read(CHUNK)
                    if not block:
                        return 0
                    data = block.lstrip(b"\0")
                self._decompressor = self._new()
            elif self._decompressor.needs_input:
                data = self._file.read(CHUNK)
                if not data:
                    raise EOFError("the compressed stream ends too early")
            content = self._decompressor.decompress(data, len(buffer))
            if content:
                buffer[: len(content)] = content
                return len(content)
