"""What a stage ran on, as far as it rounds numbers: its processor or accelerator, processes, threads and libraries."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers")


def used(launch: dict[str, Any]) -> dict[str, Any]:
    """The `launch` section as this process used it: `processes` and `device` as they were, and what it leaves open."""
    torch = sys.modules.get("torch")  # without it nothing was computed that `launch` is about
    accelerated = torch is not None and launch["device"] == "auto" and torch.cuda.is_available()
    return {
        **launch,
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "device": torch.cuda.get_device_name() if accelerated else _processor(),
        "threads": None if torch is None else torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
    }


def words(devices: Iterable[str] = ()) -> str:
    """This machine in words: its processor, cores and memory, and which of the `devices` are accelerators."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()}"
    return ", ".join([*sorted(set(devices) - {_processor()}), found])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
