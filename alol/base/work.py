"""Unfinished work of stages, from which the same stage goes on after it was killed.

It lies outside of what DVC removes before it runs a stage, under the stage's name and a digest of all that its result
depends on, so that work for other inputs, parameters or code is never taken up. It has one owner at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from alol.base.errors import InputError
from alol.base.files import read_json, remove, write_json
from alol.base.locks import Lock

logger = logging.getLogger(__name__)

LATE = 3.0  # seconds after which a machine must see what another one wrote
OLD = 7 * 24 * 3600  # seconds after which work that nobody took up again is removed
ABOUT = "about.json"
LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "numpy", "pyarrow")


@dataclass(frozen=True)
class Work:
    """A folder for what a stage has done so far, which is written about every `minutes`.

    `file` is the descriptor of its lock, -1 in a process that works for the owner; `token` is what the owner wrote into
    it, "" where it is not known; `governors` say when to write.
    """

    folder: Path
    minutes: float
    file: int = -1
    token: str = ""
    governors: list[Governor] = field(default_factory=list)

    def of(self, name: str) -> Work:
        """The work of one part of the stage, whose folder has no token of its own."""
        return dataclasses.replace(self, folder=self.folder / name, token="")

    def unseen(self, token: str) -> str | None:
        """What is wrong with the folder on this machine, where it is not the one in which the owner wrote `token`.

        A network's file system may show what another machine wrote some seconds late, sooner to who lists the folder.
        """
        end = time.monotonic() + LATE
        while True:
            with contextlib.suppress(OSError):
                for folder in (self.folder.parent, self.folder):
                    list(folder.iterdir())
            try:
                if read_json(self.folder / ABOUT).get("token") == token:
                    return None
                found = "of another run"
            except (OSError, InputError):
                found = "missing"
            if time.monotonic() >= end:
                return found
            time.sleep(0.2)

    def governor(self, seconds: float | None = None) -> Governor:
        """One that writes every so many seconds at most, where it is not every `minutes`."""
        self.governors.append(Governor(self.minutes * 60 if seconds is None else seconds))
        return self.governors[-1]

    def seconds(self) -> float:
        """How long it took to write unfinished work."""
        return sum(governor.spent for governor in self.governors)


class Governor:
    """When unfinished work is written: not sooner than asked, and so seldom that it takes 1/40 of the time at most."""

    SHARE = 40

    def __init__(self, seconds: float) -> None:
        self.asked, self.spent = seconds, 0.0
        self.last = time.monotonic()
        self._cost, self._size = 1.0, 100e6  # of the last writing; of a disk that has not been measured yet: slow

    def due(self, size: float, *, last: bool = False) -> bool:
        """Whether it is time to write about `size` bytes; at the end (`last`) what was asked does not matter."""
        cost = self._cost * size / self._size
        return time.monotonic() - self.last >= max(0.0 if last else self.asked, self.SHARE * cost)

    @contextlib.contextmanager
    def writing(self, size: float) -> Iterator[None]:
        """Measures what it takes."""
        start = time.monotonic()
        yield
        self.last = time.monotonic()
        self._cost, self._size = self.last - start, size
        self.spent += self._cost


def digest(name: str, settings: Any, inputs: Iterable[Path], code: Iterable[Path], models: Iterable[Path] = ()) -> str:
    """Of a stage's name, its settings (plain values), its inputs' and its code's content, and the libraries' versions.

    Files and folders of `models`, which may be of any size, count by their files' sizes and dates.
    """
    found = hashlib.sha256(json.dumps([name, settings], sort_keys=True).encode())
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.update(f"{library} {metadata.version(library)}\n".encode())
    files = [*_files(inputs), *(one for one in _files(code) if one[1].suffix == ".py")]
    for called, path in files:
        with path.open("rb") as file:
            found.update(f"{called}\n".encode() + hashlib.file_digest(file, "sha256").digest())
    for model in models:
        for path in sorted(model.iterdir()) if model.is_dir() else [model]:
            found.update(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
    return found.hexdigest()[:32]


def _files(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Files, and those below folders, as they are called from there, in an order that is the same everywhere."""
    for path in paths:
        if path.is_dir():
            yield from ((str(one.relative_to(path.parent)), one) for one in sorted(path.rglob("*")) if one.is_file())
        elif path.is_file():
            yield path.name, path


@contextlib.contextmanager
def claimed(root: Path, stage: str, key: str, minutes: float) -> Iterator[Work]:
    """The work below `root` of a stage and its digest, for this process alone; removed when the block ends well.

    Another process with the same work in another checkout is waited for; what it did is used. Raises InputError while
    one is at work in this checkout: both would write the same outputs.
    """
    place = root / stage
    place.mkdir(parents=True, exist_ok=True)
    sweep(place)
    folder = place / key
    lock, waiting = Lock.of(folder), Lock(place / f"{key}.waiting")
    if not lock.take():
        if _of_this_checkout(folder):
            raise InputError(f"stage {stage} is at work in this folder already; wait until it has ended, or end it")
        logger.info("another process works on stage %s with the same inputs; waiting for it", stage)
        waiting.take(wait=True, shared=True)  # so that the one at work leaves what it has done
        try:
            lock.take(wait=True)
        finally:
            waiting.release()
    try:
        folder.mkdir(exist_ok=True)
        os.utime(folder)
        token = secrets.token_hex(16)
        about = {"stage": stage, "folder": str(Path.cwd()), "process": os.getpid(), "token": token}
        write_json(folder / ABOUT, about)
        yield Work(folder, minutes, lock.file, token)
        if waiting.take():
            waiting.release()
            shutil.rmtree(folder)
    finally:
        if folder.is_dir() and [path.name for path in folder.iterdir()] == [ABOUT]:
            shutil.rmtree(folder)
        lock.release()


def _of_this_checkout(folder: Path) -> bool:
    """Whether the owner of the work is alive and runs in this folder; one whose processes are ending is waited for."""
    try:
        about = read_json(folder / ABOUT)
        os.kill(int(about["process"]), 0)
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return False
    return about.get("folder") == str(Path.cwd())


def sweep(place: Path, older: float = OLD) -> list[Path]:
    """Removes the work of a stage that nobody has and that is older than so many seconds; what it removed."""
    removed = []
    for folder in sorted(path for path in place.iterdir() if path.is_dir()):
        lock = Lock.of(folder)
        if time.time() - last_change(folder) >= older and lock.take():
            remove(folder)
            removed.append(folder)
            lock.release()
    return removed


def last_change(path: Path) -> float:
    """When it, or something in it, was written last, in seconds since 1970."""
    return max(one.stat().st_mtime for one in (path, *path.rglob("*")))


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(one.stat().st_size for one in (path, *path.rglob("*")) if one.is_file())
