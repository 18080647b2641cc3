"""Runs a sweep: the stages that runs share once, then each run in a copy; what is done stays done after a kill."""

from __future__ import annotations

import contextlib
import os
import queue
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alol.base.errors import InputError
from alol.base.locks import Lock
from alol.evaluation import results
from alol.sweeps import copies, tables
from alol.sweeps.copies import Copy
from alol.sweeps.tables import Planned

BEFORE = "advantage"  # the last stage that runs of one reference share


class Sweep:
    """The runs of a table that have no result yet, in `jobs` copies of the checkout at once.

    `say` prints a line; with `commit` each result is committed, and nothing else. Threads are the machine's cores over
    `jobs`, and all of them while the shared stages run alone.
    """

    def __init__(
        self, runs: Sequence[Planned], root: Path, *, jobs: int, commit: bool, say: Callable[[str], None]
    ) -> None:
        self.root = root
        self.runs, self.jobs, self.commit, self.say = list(runs), jobs, commit, say
        self.left = [run for run in runs if not results.finished(run.params, root)]
        self.failed: dict[str, str] = {}
        self._seconds: list[float] = []
        self._done, self._lock, self._copies = 0, threading.Lock(), set[Copy]()
        self._interrupted = False

    def run(self) -> dict[str, str]:
        """What failed, and why: label -> reason."""
        if not self.left:
            return {}
        self.checkout = copies.checkout(self.root)
        cores, ready = os.cpu_count() or 1, list[Planned]()
        try:
            with self._claimed() as copy:
                for first, same in tables.by_shared(self.left):
                    if reason := self._shared(copy, first, cores):
                        for run in same:
                            self._fail(run, f"{reason} (before training)", self._log(first.stages))
                    else:
                        ready += same
            waiting: queue.SimpleQueue[Planned] = queue.SimpleQueue()
            for run in ready:
                waiting.put(run)
            workers = min(self.jobs, len(ready))
            with ThreadPoolExecutor(max(1, workers)) as pool:
                started = [pool.submit(self._work, waiting, max(1, cores // self.jobs)) for _ in range(workers)]
                try:
                    for one in started:
                        one.result()
                finally:
                    self._end()
        finally:
            self._end()
        return self.failed

    def _end(self) -> None:
        """Stops what runs; nothing does when all went well."""
        self._interrupted = True
        with self._lock:
            running = list(self._copies)
        for copy in running:
            copy.end()

    @contextlib.contextmanager
    def _claimed(self) -> Iterator[Copy]:
        with copies.claimed(self.checkout) as copy:
            with self._lock:
                self._copies.add(copy)
            try:
                yield copy
            finally:
                with self._lock:
                    self._copies.discard(copy)

    def _log(self, name: str) -> Path:
        return self.checkout.place / "logs" / f"{name}.log"

    def _shared(self, copy: Copy, run: Planned, threads: int) -> str | None:
        """The stages before training, of which `run` is one that needs them; None, or why they failed."""
        self.say(f"{run.params.task}: the stages up to {BEFORE}")
        start = time.monotonic()
        failed = copy.repro(run, self._log(run.stages), threads, upto=BEFORE)
        if self._interrupted:
            raise KeyboardInterrupt
        if failed is None:
            self.say(f"{run.params.task}: these are there, after {duration(time.monotonic() - start)}")
        return failed

    def _work(self, waiting: queue.SimpleQueue[Planned], threads: int) -> None:
        with self._claimed() as copy:
            while not self._interrupted:
                try:
                    run = waiting.get_nowait()
                except queue.Empty:
                    return
                self._one(copy, run, threads)

    def _one(self, copy: Copy, run: Planned, threads: int) -> None:
        lock = Lock(self.checkout.place / f"{run.name}.lock")
        if not lock.take():
            self.say(f"{run.label}: another sweep has it; waiting for that one")
            lock.take(wait=True)
        try:
            target = self.checkout.root / run.path
            if results.finished(run.params, self.checkout.root):
                return
            start = time.monotonic()
            reason = copy.repro(run, self._log(run.name), threads, lock=lock)
            if self._interrupted:
                return
            if reason is not None:
                self._fail(run, reason, self._log(run.name))
                return
            cost = copies.costs(self.checkout, run.stages) | copies.costs(self.checkout, run.name)
            result = results.write(copy.folder, run.params, self.checkout.code, cost, target)
            self._finish(run, result["summary"], time.monotonic() - start)
        except InputError as error:
            self._fail(run, str(error), self._log(run.name))
        finally:
            lock.release()

    def _fail(self, run: Planned, reason: str, log: Path) -> None:
        with self._lock:
            self.failed[run.label] = reason
            self.say(f"FAILED {run.label}: {reason} (all of it: {log})")

    def _finish(self, run: Planned, summary: dict, seconds: float) -> None:
        with self._lock:
            self._done += 1
            self._seconds.append(seconds)
            left = len(self.left) - self._done - len(self.failed)
            remaining = duration(statistics.fmean(self._seconds) * left / min(self.jobs, max(1, left)))
            if self.commit:
                self._commit(run)
            done = len(self.runs) - len(self.left) + self._done
            self.say(
                f"{done} of {len(self.runs)}: {run.label}: reward {summary['policy']['all']['reward']:.3f} "
                f"(reference {summary['reference']['all']['reward']:.3f}) in {duration(seconds)}; {run.path}"
                + (f"; about {remaining} left" if left else "")
            )

    def _commit(self, run: Planned) -> None:
        path = str(run.path)
        for command in (
            ["add", "--force", "--", path],
            ["commit", "--quiet", "-m", f"Result: {run.label}", "--", path],
        ):
            done = subprocess.run(
                ["git", *command], cwd=self.checkout.root, capture_output=True, text=True, check=False
            )
            if done.returncode:
                said = (done.stderr or done.stdout).strip().splitlines()
                self.say(f"{path} is there, but not committed: {said[-1] if said else 'git failed'}")
                return


def duration(seconds: float) -> str:
    """In the units that one would say it in."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
