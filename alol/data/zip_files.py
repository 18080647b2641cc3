"""The members of a zip archive, with every byte of it accounted for.

zipfile checks the CRC of each member. It does not compare the number of entries with what the archive's end says, nor
most of a member's own header with the directory, and passes over bytes that belong to no member.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from alol.base.errors import InputError
from alol.data.tar_files import Member

END, END64, LOCATOR64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
LOCAL = struct.Struct("<4s5H3L2H")
COUNT64, SIZE64 = 0xFFFF, 0xFFFFFFFF  # "the number stands in the record of zip64"
ENCRYPTED, BEHIND, UTF8 = 1, 8, 0x800  # flags: sizes stand behind the data
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
SIP = 4096  # bytes that are unpacked at once where the method has no bound: they become 100 MB at most


def members(path: Path, name: str, reserve: Callable[[int], None], limit: int) -> Iterator[Member]:
    """The entries in the directory's order; `reserve` is asked for the bytes of all of them first.

    Raises InputError for links, special and encrypted files, and BadZipFile or what else zipfile raises for damage.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_end(file, archive)
        for info in entries:
            kind, shown = stat.S_IFMT(info.external_attr >> 16), ascii(info.filename)[:80]
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InputError(f"{name}: {shown} is a link or a special file, which is not unpacked")
            if info.flag_bits & ENCRYPTED:
                raise InputError(f"{name}: {shown} is encrypted; unpack it by hand and name its folder")
            if info.compress_type not in METHODS:
                raise InputError(
                    f"{name} cannot be unpacked: the compression method {info.compress_type} of {shown} is not "
                    "supported; unpack it by hand and name its folder"
                )
        _check_layout(file, entries, archive.start_dir)
        reserve(sum(info.file_size for info in entries))
        for info in entries:
            if info.filename.endswith("/"):
                if info.file_size:
                    raise zipfile.BadZipFile("a folder with content")
                yield Member(info.orig_filename, 0, None)
            else:
                with archive.open(info) as stream:
                    bounded = info.compress_type in METHODS[:2]
                    yield Member(info.orig_filename, info.file_size, stream if bounded else _Sipped(stream))


class _Sipped(io.RawIOBase):
    """A stream that unpacks a little of its data at a time: zipfile unpacks as many packed bytes as it is asked for."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(SIP)


def _check_end(file: IO[bytes], archive: zipfile.ZipFile) -> None:
    """The archive's end is the end of the file, and says where the directory is and how many entries it has."""
    place = file.seek(0, 2) - END.size - len(archive.comment)
    sign, disk, first, here, count, size, start, comment = END.unpack(_read(file, place, END.size))
    if sign != b"PK\x05\x06" or comment != len(archive.comment):
        raise zipfile.BadZipFile("bytes after the end of the archive")
    if COUNT64 in (here, count) or SIZE64 in (size, start):
        sign, _, place, _ = LOCATOR64.unpack(_read(file, place - LOCATOR64.size, LOCATOR64.size))
        sign64, _, _, _, disk, first, here, count, size, start = END64.unpack(_read(file, place, END64.size))
        if sign != b"PK\x06\x07" or sign64 != b"PK\x06\x06":
            raise zipfile.BadZipFile("the end of the archive is damaged")
    if disk or first or not here == count == len(archive.infolist()):
        raise zipfile.BadZipFile(f"{len(archive.infolist())} entries where its end says {count}")
    if start != archive.start_dir or start + size != place:
        raise zipfile.BadZipFile("its directory is not where its end says")


def _check_layout(file: IO[bytes], entries: list[zipfile.ZipInfo], end: int) -> None:
    """Members lie end to end, from the first byte to the directory, and say of themselves what the directory says."""
    place = 0
    for info in sorted(entries, key=lambda info: info.header_offset):
        if info.header_offset != place:
            raise zipfile.BadZipFile("bytes that belong to no file, or to two")
        header = LOCAL.unpack(_read(file, place, LOCAL.size))
        sign, _, flags, method, _, _, crc, packed, size, name, extra = header
        expected = (info.CRC, info.compress_size, info.file_size)
        told = all(given in (own, SIZE64) for given, own in zip((crc, packed, size), expected, strict=True))
        if sign != b"PK\x03\x04" or method != info.compress_type or not (told or flags & BEHIND):
            raise zipfile.BadZipFile("a file's header differs from the directory")
        if (flags ^ info.flag_bits) & (ENCRYPTED | BEHIND | UTF8):
            raise zipfile.BadZipFile("a file's flags differ from the directory's")
        place += LOCAL.size + name + extra + info.compress_size
        if flags & BEHIND:
            place += _behind(file, place, info)
    if place != end:
        raise zipfile.BadZipFile("bytes that belong to no file")


def _behind(file: IO[bytes], place: int, info: zipfile.ZipInfo) -> int:
    """The size of what stands behind a member's data: its CRC and sizes, with or without a sign before them."""
    for form in ("<4sLQQ", "<4sLLL", "<LQQ", "<LLL"):
        record = _read(file, place, struct.calcsize(form), whole=False)
        if len(record) == struct.calcsize(form):
            values = struct.unpack(form, record)
            if form.startswith("<4s") and values[0] != b"PK\x07\x08":
                continue
            if values[-3:] == (info.CRC, info.compress_size, info.file_size):
                return len(record)
    raise zipfile.BadZipFile("a file's sizes differ from the directory's")


def _read(file: IO[bytes], place: int, size: int, *, whole: bool = True) -> bytes:
    if place < 0:
        raise zipfile.BadZipFile("it ends too early")
    file.seek(place)
    data = file.read(size)
    if whole and len(data) < size:
        raise zipfile.BadZipFile("it ends too early")
    return data
