"""Recipes and computations of tests that actors on a cluster and other processes can import."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from alol.base.errors import InputError, ParameterError

COLUMNS = pa.schema([("double", pa.int64()), ("by", pa.string())])


def noted(folder: Path) -> str:
    """Models that leave a file for each process that loads them."""
    name = f"{os.getpid()}-{time.monotonic_ns()}"
    (folder / name).touch()
    return name


def doubled(models: str, start: int, rows: Sequence[int], done: Any, *, seconds: float = 0.0) -> list[dict[str, Any]]:
    time.sleep(seconds)
    return [{"double": 2 * row, "by": models} for row in rows]


def mistaken(models: str, start: int, rows: Sequence[int], done: Any) -> list[dict[str, Any]]:
    raise InputError(f"row {start} is wrong")


def misset(models: str, start: int, rows: Sequence[int], done: Any) -> list[dict[str, Any]]:
    raise ParameterError("generate.stop", "is wrong")


def buggy(models: str, start: int, rows: Sequence[int], done: Any) -> list[dict[str, Any]]:
    return [{"double": 1 / (start - start)}]


def said(models: str, start: int, rows: Sequence[int], done: Any) -> list[dict[str, Any]]:
    """What a process sees: its folder, its threads and a secret."""
    seen = (str(Path.cwd()), f"{os.environ['OMP_NUM_THREADS']} threads", os.environ.get("HF_TOKEN", "no token"))
    return [{"double": 0, "by": text} for text in seen]
