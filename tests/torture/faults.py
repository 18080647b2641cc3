"""A disk that fills up and memory that runs out, in every stage: one line, nothing half written, and then it works.

python -m tests.torture.faults prints a table, within half an hour; full disks need the right to mount one.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from alol.base import faults
from tests import small

STAGES = (*small.BEFORE_TRAIN, *small.FROM_TRAIN)
FILE_SIZES = (0, 200, 5_000, 60_000)  # bytes that a file may have
FREE = (0, 8, 64)  # KiB that a disk has left
TOO_LITTLE = 1024  # MiB of address space: less than the libraries need
ROOM = (64, 128, 256)  # MiB beyond what they have taken once they are loaded
LARGE = {
    "policy__scratch__layers": 2,
    "policy__scratch__width": 1024,
    "reference__updates": 2,
    "reference__optimizer__warmup": 0,
    "train__updates": 2,
    "train__evaluations": 1,
    "train__optimizer__warmup": 0,
}  # a policy of 100 MiB
LIMITED = """
import importlib, resource, sys
from pathlib import Path
room = int(sys.argv.pop(1)) << 20
main = importlib.import_module(sys.argv.pop(1)).main
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + room,) * 2)
main()
"""


@dataclass(frozen=True)
class Trial:
    """What one run under a limit gave, and the run without it that followed."""

    stage: str
    limit: str
    code: int
    lines: list[str]  # that begin with Error
    bug: bool  # a traceback that asks to be reported
    left: list[str]  # partial files
    again: int  # the exit code without the limit

    @property
    def state(self) -> str:
        """ok, WRONG, or abort: a library in C++ or Rust ended the process, which could say and tidy nothing then."""
        if self.code and not self.lines and not self.bug:
            return "abort" if not self.again else "WRONG"
        said = len(self.lines) == self.code
        return "WRONG" if self.bug or self.left or self.again or not said else "ok"


def prepared(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """A project in which every stage has run; `changes` are of the task's keys, as for small.write."""
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        small.write(folder, **{f"tasks__demo__{key}": value for key, value in (changes or {}).items()})
        small.run(STAGES)
    return folder


@contextlib.contextmanager
def file_size(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond `limit` bytes."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def partial(folder: Path) -> list[str]:
    """Names what a run left half written, and removes it."""
    found = list(folder.rglob("*.partial"))
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return [str(path.relative_to(folder)) for path in found]


def here(stage: str, limit: int) -> Trial:
    """The stage in this process, in the current folder, with files of at most `limit` bytes."""
    with file_size(limit):
        done = small.stage(stage)
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    bug = done.exception is not None and not isinstance(done.exception, SystemExit)
    left, again = partial(Path()), small.stage(stage).exit_code
    return Trial(stage, f"files of {limit} B", done.exit_code, lines, bug, left, again)


def apart(folder: Path, stage: str, limit: str, room: int | None = None, memory: int | None = None) -> Trial:
    """The stage in a process of its own; `memory` (MiB) limits it from its start, `room` once all is loaded."""

    def limited() -> None:
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory << 20, memory << 20))

    options = ["--task", "demo"] + (["--algorithm", "a_lol"] if stage in small.FROM_TRAIN else [])
    usual = [sys.executable, "-m", f"stages.{stage}", *options]
    limits = [sys.executable, "-c", LIMITED, str(room), f"stages.{stage}", *options]
    command = usual if room is None else limits
    keywords = {"cwd": folder, "capture_output": True, "text": True, "check": False, "timeout": 300}
    keywords["env"] = {**os.environ, "PYTHONPATH": str(small.ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, preexec_fn=limited, **keywords)
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    left, bug = partial(folder), faults.REPORT in done.stderr
    for filler in folder.glob("filler"):
        filler.unlink()
    return Trial(stage, limit, done.returncode, lines, bug, left, subprocess.run(usual, **keywords).returncode)


@contextlib.contextmanager
def disk(project: Path) -> Iterator[Path | None]:
    """A copy of the project on a small disk of its own; None where this user may not make one."""
    with tempfile.TemporaryDirectory() as place:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=False).returncode
        if made:
            yield None
            return
        try:
            yield Path(shutil.copytree(project, Path(place, "project")))
        finally:
            subprocess.run(["umount", place], check=True)


def filled(folder: Path, free: int) -> None:
    """Leaves `free` KiB of the disk under `folder`."""
    left = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "filler").write_bytes(bytes(max(0, left - (free << 10))))


def trials(place: Path) -> Iterator[Trial]:
    project = prepared(place / "small")
    for limit in FILE_SIZES:
        for stage in STAGES:
            with contextlib.chdir(project):
                yield here(stage, limit)
    with disk(project) as folder:
        for free in FREE if folder is not None else ():
            for stage in STAGES:
                filled(folder, free)
                yield apart(folder, stage, f"{free} KiB of disk")
    large = prepared(place / "large", LARGE)
    for stage in STAGES:
        yield apart(large, stage, f"{TOO_LITTLE} MiB", memory=TOO_LITTLE)
        for room in ROOM:
            yield apart(large, stage, f"{room} MiB more", room)


@click.command()
def main() -> None:
    """Print a row for each stage and limit; exit 1 where one was not as it should be."""
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        for trial in trials(Path(place)):
            wrong += trial.state == "WRONG"
            said = " | ".join(trial.lines) or "no line"
            more = "".join([" BUG" * trial.bug, f" left {trial.left}" * bool(trial.left)])
            codes = f"exit {trial.code}, then {trial.again}"
            click.echo(f"{trial.state:6} {trial.stage:13} {trial.limit:15} {codes}  {said}{more}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
