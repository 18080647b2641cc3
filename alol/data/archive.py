"""Unpacks zip and tar archives that come from elsewhere: plain files alone, below one folder, within bounds.

alol.data.tar_files and alol.data.zip_files read the two kinds, to the very end, so that nothing is lost in silence.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import lzma
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from alol.base.errors import InputError, first_line
from alol.data import room, tar_files, zip_files

logger = logging.getLogger(__name__)

MAX_FILES = 200_000  # far above any source of these tasks
MAX_LEVELS, MAX_NAME, MAX_PART = 64, 1000, 255  # of a member's name: folders, and bytes of the whole and of a part
CHUNK = 1 << 20  # bytes
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# What zipfile, tarfile and the decompressors raise on damaged bytes.
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, struct.error,
          ValueError, OverflowError, IndexError, KeyError, RecursionError)  # fmt: skip


def is_archive(name: str) -> bool:
    """Whether a file of that name is to be unpacked."""
    return name.lower().endswith(SUFFIXES)


def unpack(path: Path, folder: Path, name: str, limit: int, *, vouched: bool) -> None:
    """Writes the archive's files below `folder`, at most `limit` bytes.

    `name` is the archive's file name, which says its kind and stands in messages; `vouched` says that its sha256 was
    right. Raises InputError when the archive is damaged or holds no files, leaves the folder, holds links or special
    files, or is larger than `limit`, MAX_FILES or the free space allow.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not vouched and not name.lower().endswith(".zip") and tar_files.is_plain(path):
        logger.warning("%s: nothing vouches for its content, since a tar carries no checksum of it; set sha256", name)
    members = zip_files.members if name.lower().endswith(".zip") else tar_files.members
    names, there, written, count = _Names(name), 0, 0, 0

    def reserve(size: int) -> None:
        nonlocal there
        room.check(folder, size, limit, name, there=there)
        there += size

    try:
        with (
            tqdm(desc=f"unpack {name}", unit="B", unit_scale=True, disable=None) as bar,
            contextlib.closing(members(path, name, reserve, limit)) as found,
        ):
            for count, member in enumerate(found, 1):
                if count > MAX_FILES:
                    raise InputError(f"{name} holds more than {MAX_FILES} files; unpack it by hand and name its folder")
                parts = names.add(member.name, is_file=member.stream is not None)
                if member.stream is not None:
                    _write(member.stream, folder.joinpath(*parts), member.size, bar)
                    written += 1
        if not written:
            raise InputError(f"{name} holds no files")
    except InputError:
        raise
    except NotImplementedError as error:  # a version or encryption that zipfile does not have
        raise InputError(
            f"{name} cannot be unpacked: {first_line(error)}; unpack it by hand and name its folder"
        ) from None
    except DAMAGE as error:
        # a full disk or a missing permission is not the archive's fault; a jump to where no file can be is
        if getattr(error, "errno", None) not in (None, errno.EINVAL):
            raise InputError(f"{name} cannot be unpacked into {folder}: {first_line(error)}") from None
        raise InputError(
            f"{name} cannot be unpacked, cut off or damaged ({first_line(error)}); fetch it again"
        ) from None


class _Names:
    """The names of an archive's members: each a place of its own below the folder."""

    def __init__(self, archive: str) -> None:
        self.archive = archive
        self.files: set[tuple[str, ...]] = set()
        self.folders: set[tuple[str, ...]] = set()

    def add(self, member: str, *, is_file: bool) -> tuple[str, ...]:
        """The parts of a member's name; raises InputError for one that is not to be written."""
        where = f"{self.archive}: {_shown(member)}"
        if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in member):
            raise InputError(f"{where} is no name for a file: it has control characters or is not UTF-8")
        parts = PurePosixPath(member).parts
        if member.startswith("/") or ".." in parts or "\\" in member or ":" in member.split("/")[0]:
            raise InputError(f"{where} would be written outside its folder; the archive is not to be trusted")
        sizes = [len(part.encode()) for part in parts]
        if len(parts) > MAX_LEVELS or max(sizes, default=0) > MAX_PART or sum(sizes) + len(sizes) > MAX_NAME:
            raise InputError(
                f"{where}: a name of {len(parts)} levels and {len(member)} characters is too long "
                f"(at most {MAX_LEVELS} levels, {MAX_PART} bytes each, {MAX_NAME} together)"
            )
        if is_file and not parts:
            raise InputError(f"{where}: a file without a name")
        above = {parts[:i] for i in range(1, len(parts) + (not is_file))}
        if clash := (self.files & above) or ({parts} & (self.files | self.folders) if is_file else set()):
            raise InputError(f"{self.archive} has {_shown('/'.join(min(clash)))} twice; unpack it by hand")
        self.folders |= above
        if is_file:
            self.files.add(parts)
        return parts


def _shown(member: str) -> str:
    """A name from an archive as it may stand in a message: in quotes, of bounded length, without control characters."""
    return ascii(member) if len(member) <= 80 else ascii(member[:80]) + "..."


def _write(stream: IO[bytes], target: Path, size: int, bar: tqdm) -> None:
    """Copies a file of `size` bytes, as the archive says; one with more or fewer is damaged."""
    target.parent.mkdir(parents=True, exist_ok=True)
    left = size
    with target.open("xb") as file:
        while chunk := stream.read(CHUNK):
            left -= len(chunk)
            if left < 0:
                break
            file.write(chunk)
            bar.update(len(chunk))
    if left:
        raise EOFError(f"a member does not have the {size} bytes that its header says")
