"""What a user waits for before anything happens."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import measure
from benchmarks.project import ROOT
from benchmarks.size import Size


def waits(size: Size) -> Iterator[dict[str, Any]]:
    """Seconds of `--help` of a light stage, and of `dvc repro` when nothing is to do over those of `dvc version`."""
    light = [sys.executable, "-m", "stages.clean", "--help"]
    found = [measure.timed(_run, light) for _ in range(size.repeats)]
    yield {"name": "python -m stages.clean --help", "seconds": round(statistics.median(found), 3)}
    dvc = [sys.executable, "-m", "dvc"]
    if "up to date" not in _run([*dvc, "status"]):
        yield {
            "name": "dvc repro with nothing to do",
            "skipped": "this folder's results are not up to date: make repro",
        }
        return
    idle, nothing = (
        [measure.timed(_run, [*dvc, *command]) for _ in range(size.repeats)] for command in (["version"], ["repro"])
    )
    difference = statistics.median(nothing) - statistics.median(idle)
    yield {
        "name": "dvc repro with nothing to do",
        "seconds": round(statistics.median(nothing), 3),
        "over_dvc_version": round(difference, 3),
    }


def _run(command: list[str]) -> str:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
