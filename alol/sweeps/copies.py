"""Copies of the checkout in which runs go on side by side, and the user's own files and code stay as they are.

A copy has the files that Git tracks (as they are, with changes that are not committed), new ones of custom/ and tasks/,
and DVC's cache of the checkout; no Git of its own. What stages leave unfinished lies where that of the checkout does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from alol.base.errors import InputError
from alol.base.files import read_json, remove, write_json
from alol.base.locks import Lock
from alol.checks.parameters import TRACKED
from alol.config import paths
from alol.evaluation.results import Code
from alol.sweeps.tables import Planned

KEPT = {".dvc", "data", "models", "metrics"}  # of a copy, from one sweep to the next
GRACE = 20.0  # seconds that the stages have to end by themselves
CODE = ("alol", "stages", "custom", "dvc.yaml")


@dataclass(frozen=True)
class Checkout:
    """The user's: its folder, that of the copies, and DVC's cache."""

    root: Path
    place: Path
    cache: Path
    files: list[str]
    code: Code


def checkout(root: Path) -> Checkout:
    """Of the project at `root`; raises InputError where it is no repository of Git and DVC."""
    names = _git(root, "ls-files", "-z", "--cached")
    cache = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=root, capture_output=True, text=True, check=False
    )
    if names is None or cache.returncode:
        raise InputError(f"{root} is no checkout with Git and DVC; run `git init` and `dvc init`, or go to one")
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *TRACKED) or ""
    commit = (_git(root, "rev-parse", "HEAD") or "").strip() or None
    changed = (_git(root, "status", "--porcelain", "--no-renames", "--", *CODE) or "").splitlines()
    files = [name for name in (names + new).split("\0") if name and (root / name).is_file()]
    files = [name for name in files if not Path(name).is_relative_to(paths.results(""))]
    code = Code(commit=commit, changed=[line[3:] for line in changed])
    return Checkout(root, paths.work("sweeps").absolute(), Path(cache.stdout.strip()).absolute(), files, code)


def _git(root: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


class Copy:
    """One of the copies, held by its lock; a process that runs in it holds the lock too, should this one be killed."""

    ABOUT = ".alol_run.json"  # whose costs are in metrics/cost

    def __init__(self, found: Checkout, number: int, lock: Lock) -> None:
        self.folder, self._found, self._lock = found.place / f"copy_{number}", found, lock
        self._started: subprocess.Popen | None = None
        self._ended = False

    def fill(self) -> None:
        """Brings the copy to what the checkout is now."""
        self.folder.mkdir(exist_ok=True)
        about = self.folder / self.ABOUT
        for path in self.folder.iterdir():
            if path.name not in KEPT and path != about:
                remove(path)
        for name in self._found.files:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy2(self._found.root / name, target)
        local = self._found.root / ".dvc/config.local"
        text = local.read_text("utf-8") if local.exists() else ""
        (self.folder / ".dvc/config.local").write_text(text, "utf-8")
        for key, value in (("cache.dir", str(self._found.cache)), ("core.no_scm", "true")):
            subprocess.run(
                [sys.executable, "-m", "dvc", "config", "--local", key, value],
                cwd=self.folder, check=True, capture_output=True,
            )  # fmt: skip

    def repro(
        self, run: Planned, log: Path, threads: int, upto: str | None = None, lock: Lock | None = None
    ) -> str | None:
        """`dvc repro` with the run's parameters, with its output in `log`; None, or why it failed.

        `lock`, if there is one, is held by the process too.
        """
        name = run.stages if upto else run.name
        if (before := _name(self.folder)) != name:
            if before:
                write_json(self._found.place / "cost" / f"{before}.json", costs(self._found, before))
            remove(self.folder / paths.cost("x").parent)
            write_json(self.folder / self.ABOUT, name)
        run.write(self._found.root, self.folder)
        held = [one.file for one in (self._lock, lock) if one is not None]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            if self._ended:
                return "interrupted"
            # a session of its own: a signal of the terminal reaches the sweep alone, which ends this then
            self._started = subprocess.Popen(
                [sys.executable, "-m", "dvc", "repro", *([upto] if upto else [])],
                cwd=self.folder, env=self._environment(threads), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, pass_fds=held,
            )  # fmt: skip
        if self._ended:  # meanwhile
            self.end()
        code = self._started.wait()
        return None if code == 0 else _reason(log, code)

    def end(self) -> None:
        """Ends what runs in the copy: first asked, so that stages keep what they have done."""
        self._ended = True
        process = self._started
        if process is None or process.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
                return

    def release(self) -> None:
        self._lock.release()

    def _environment(self, threads: int) -> Mapping[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        own = {"PATH": path, "ALOL_STATE": str(self._found.place.parent), "DVC_NO_ANALYTICS": "1"}
        if "OMP_NUM_THREADS" not in os.environ:
            own["OMP_NUM_THREADS"] = str(threads)
        return {**os.environ, **own}


def costs(found: Checkout, name: str) -> dict[str, dict[str, float]]:
    """Seconds and memory of the stages that ran for a run, in whichever copies it was begun and gone on with."""
    kept = found.place / "cost" / f"{name}.json"
    result = read_json(kept) if kept.exists() else {}
    for copy in sorted(found.place.glob("copy_*")):
        if copy.is_dir() and _name(copy) == name:
            result |= {one.stem: read_json(one) for one in sorted((copy / paths.cost("x")).parent.glob("*.json"))}
    return result


def _name(copy: Path) -> str | None:
    """For which run the costs are that lie in a copy."""
    about = copy / Copy.ABOUT
    return read_json(about, str) if about.exists() else None


def _reason(log: Path, code: int) -> str:
    """The last line of the log that names a mistake."""
    lines = log.read_text("utf-8", errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("Error: ")] or [
        line for line in lines if line.startswith("ERROR: ")
    ]
    return errors[-1].split(": ", 1)[1] if errors else f"dvc repro ended with exit code {code}"


@contextlib.contextmanager
def claimed(found: Checkout) -> Iterator[Copy]:
    """The first copy that nobody has, filled."""
    found.place.mkdir(parents=True, exist_ok=True)
    number = 0
    while not (lock := Lock(found.place / f"copy_{number}.lock")).take():
        number += 1
    copy = Copy(found, number, lock)
    try:
        copy.fill()
        yield copy
    finally:
        copy.end()
        copy.release()
