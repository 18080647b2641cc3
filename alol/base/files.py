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

from alol.base.errors import InputError, about
from alol.base.locks import Lock

TARGET = re.compile(r"\.([^/]+)\.\d+\.partial")  # whose first group is the name of what is being written


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write at; it takes `path`'s place when the block ends well, and goes away otherwise.

    What a killed process left there is removed first. Raises InputError while another process writes the same target.
    """
    lock = Lock(path.with_name(f".{path.name}.lock"))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with about(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not lock.take():
            raise InputError(f"{path} is being written by another process; wait until it has ended, or end it")
    try:
        with about(path):
            for left in partials(path):
                remove(left)
            yield partial
            if path.is_dir() or partial.is_dir():  # a folder takes the place of nothing alone
                remove(path)
            partial.replace(path)
    finally:
        remove(partial)
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


def write_json(path: Path, value: Any) -> None:
    """Sorted keys and a fixed layout, so that equal values give equal bytes."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, shape: Any = Any) -> Any:
    """The pipeline's own JSON as `shape`, the type that was written (a TypedDict, for one; more keys may be there).

    Raises InputError for a file that is missing, is no JSON or of another shape, or has numbers that are not finite.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    if not path.exists():
        raise InputError(f"{path} is missing; run `dvc repro` to make it")
    # a TypedDict takes its rules from what surrounds it
    kind = TypeAdapter(tuple[shape], config=ConfigDict(strict=True, allow_inf_nan=False, extra="allow"))
    try:
        return kind.validate_json(b"[%b]" % path.read_bytes())[0]
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"][1:]))
        raise damaged(path, f"{place}: {first['msg']}" if place else first["msg"]) from None


def damaged(path: Path, why: str) -> InputError:
    """The error for a file of the pipeline's own that this version did not write so, or that was hurt since.

    DVC trusts what is read-only in its cache, and would bring back the same file.
    """
    return InputError(
        f"{path} is damaged or not what this version writes ({why}); delete it and run `dvc repro` "
        "(where it comes back as it was, let DVC check its cache: `chmod -R u+w $(dvc cache dir)`)"
    )
