"""Unpacks zip and tar archives that come from elsewhere: plain files alone, below one folder, within bounds."""

from __future__ import annotations

import errno
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from alol.base.errors import InputError, first_line

# Far above any source of these tasks (the largest holds a few models), far below what would fill a file system.
MAX_BYTES = 64 << 30
MAX_FILES = 200_000
CHUNK = 1 << 20  # bytes
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)


def is_archive(name: str) -> bool:
    """Whether a file of that name is to be unpacked."""
    return name.lower().endswith(SUFFIXES)


def unpack(path: Path, folder: Path, name: str) -> None:
    """Writes the archive's files below `folder`.

    `name` is the archive's file name, which says its kind and stands in messages. Raises InputError when the archive is
    damaged, leaves the folder, holds links or special files, or is larger than MAX_BYTES or MAX_FILES allow.
    """
    members = _zip if name.lower().endswith(".zip") else _tar
    size, count = 0, 0
    try:
        with tqdm(desc=f"unpack {name}", unit="B", unit_scale=True, disable=None) as bar:
            for member, stream in members(path, name):
                count += 1
                if count > MAX_FILES:
                    raise InputError(f"{name} holds more than {MAX_FILES} files; unpack it by hand and name its folder")
                size += _write(stream, _target(folder, member, name), MAX_BYTES - size, name, bar)
    except InputError:
        raise
    except NotImplementedError as error:  # a compression, version or encryption that zipfile does not have
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


def _zip(path: Path, name: str) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InputError(f"{name}: '{info.filename}' is a link or a special file, which is not unpacked")
            if info.flag_bits & 1:
                raise InputError(f"{name}: '{info.filename}' is encrypted; unpack it by hand and name its folder")
            _target(path.parent, info.filename, name)
            if not info.is_dir():
                with archive.open(info) as stream:
                    yield info.filename, stream


def _tar(path: Path, name: str) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(path) as archive:
        for info in archive:
            if not info.isfile() and not info.isdir():
                raise InputError(f"{name}: '{info.name}' is a link or a special file, which is not unpacked")
            _target(path.parent, info.name, name)
            stream = archive.extractfile(info)
            if stream is not None:
                yield info.name, stream


def _target(folder: Path, member: str, name: str) -> Path:
    """Where a member goes; names that are absolute, climb up or have a drive or a backslash are refused."""
    parts = PurePosixPath(member).parts
    if member.startswith("/") or ".." in parts or "\\" in member or ":" in member.split("/")[0]:
        raise InputError(f"{name}: '{member}' would be written outside its folder; the archive is not to be trusted")
    return folder.joinpath(*parts)


def _write(stream: IO[bytes], target: Path, room: int, name: str, bar: tqdm) -> int:
    """Copies at most `room` bytes (counted while copying, since a header may lie); returns how many."""
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with target.open("xb") as file:
        while chunk := stream.read(CHUNK):
            size += len(chunk)
            if size > room:
                raise InputError(
                    f"{name} unpacks to more than {MAX_BYTES >> 30} GiB; unpack it by hand, name its folder"
                )
            file.write(chunk)
            bar.update(len(chunk))
    return size
