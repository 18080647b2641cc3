"""How much a source may bring: bounded before it is written, by a parameter and by what the file system has free."""

from __future__ import annotations

import shutil
from pathlib import Path

from alol.base.errors import InputError


def check(folder: Path, size: int, limit: int, what: str, *, there: int = 0) -> None:
    """Raises InputError when `size` more bytes, beside those that are `there`, are beyond `limit` or the free space."""
    if there + size > limit:
        raise InputError(
            f"{what}: more than {limit:,} bytes, which is what max_gib of the source allows; "
            "raise it, or fetch (and unpack) it by hand and give its path"
        )
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(f"{what}: needs {size:,} bytes in {folder}, where {free:,} are free; make room there")
