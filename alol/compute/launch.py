"""Devices and processes: one Accelerator from `launch:` in params.yaml, and how its processes share work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from alol.base.files import replacing
from alol.config.sections import Launch


def accelerator(launch: Launch) -> Accelerator:
    """The Accelerator of this process."""
    precision = "no" if launch.precision == "fp32" else launch.precision
    return Accelerator(cpu=launch.device == "cpu", mixed_precision=precision)


@contextlib.contextmanager
def output(path: Path, main: Accelerator) -> Iterator[Path | None]:
    """A folder that takes `path`'s place when the block ends well, for the main process; None for the others."""
    if not main.is_main_process:
        yield None
        return
    with replacing(path) as folder:
        folder.mkdir()
        yield folder


def gather_shards(shard: Sequence, main: Accelerator) -> list:
    """Puts back together what was dealt out as items[rank::processes]; the same list in every process."""
    if main.num_processes == 1:
        return list(shard)
    parts = gather_object([list(shard)])
    longest = max(map(len, parts))
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def from_main(value: object, main: Accelerator) -> object:
    """The main process's value, in every process."""
    if main.num_processes == 1:
        return value
    return broadcast_object_list([value])[0]
