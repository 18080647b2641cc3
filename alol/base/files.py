"""Writes that are all or nothing: beside the target first, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alol.base.errors import InputError
from alol.base.locks import Lock

TARGET = re.compile(r"\.(.+)\.\d+\.partial")  # whose first group is the name of what is being written


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write at; it takes `path`'s place when the block ends well, and goes away otherwise.

    What a killed process left there is removed first. Raises InputError while another process writes the same target.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(path.with_name(f".{path.name}.lock"))
    if not lock.take():
        raise InputError(f"{path} is being written by another process; wait until it has ended, or end it")
    try:
        for left in partials(path):
            remove(left)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            yield partial
            if path.is_dir() or partial.is_dir():  # a folder takes the place of nothing alone
                remove(path)
            partial.replace(path)
        finally:
            remove(partial)
    finally:
        lock.release()


def partials(path: Path) -> list[Path]:
    """What processes that write `path` have not finished, or left when they were killed."""
    with os.scandir(path.parent) as entries:
        found = [(entry.name, TARGET.fullmatch(entry.name)) for entry in entries]
    return [path.with_name(name) for name, match in found if match and match[1] == path.name]


def remove(path: Path) -> None:
    """A file or a folder with all that is in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_local(name: str) -> bool:
    """Whether a model's name is a folder; environment variables in it are expanded."""
    return Path(os.path.expandvars(name)).is_dir()


def write_json(path: Path, value: Any) -> None:
    """Sorted keys and a fixed layout, so that equal values give equal bytes."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
