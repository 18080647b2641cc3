"""Kills stages at random instants, runs the same command again, and compares what they write with an undisturbed run.

python -m tests.torture.kills --kills 30
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks import project
from tests import small

STAGES = {
    "reward_model": ["models/demo/reward_model", "metrics/reward_model.json"],
    "annotate": ["data/annotated/demo"],
    "reference": ["models/demo/reference"],
    "rollout": ["data/rollouts/demo"],
    "baseline": ["data/baselines/demo"],
    "value": ["models/demo/value", "metrics/value.json"],
    "advantage": ["data/advantages/demo"],
    "train": ["models/demo/{algorithm}"],
    "evaluate": ["data/generations/demo/{algorithm}"],
}
# the demo as it is, and adapters in two processes
TASKS: dict[str, dict[str, Any]] = {
    "demo": {},
    "lora": {"tasks.demo.policy.tuning": "lora", "launch.processes": 2, "launch.device": "cpu"},
}
# what is killed, and how: the stage's own process, with all that it started, or as a scheduler or a terminal asks
SIGNALS = (
    ("process", signal.SIGKILL), ("process", signal.SIGKILL), ("group", signal.SIGKILL),
    ("process", signal.SIGTERM), ("group", signal.SIGINT), ("process", signal.SIGHUP),
)  # fmt: skip


@dataclass
class Trial:
    """A project folder in which stages of the task `demo` run with one algorithm."""

    folder: Path
    algorithm: str
    seconds: dict[str, float] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)

    def command(self, stage: str) -> list[str]:
        options = ["--algorithm", self.algorithm] if stage in small.FROM_TRAIN else []
        return [sys.executable, "-m", f"stages.{stage}", "--task", "demo", *options]

    @property
    def environment(self) -> dict[str, str]:
        return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(small.ROOT)}

    def start(self, stage: str) -> subprocess.Popen:
        log = (self.folder / "log.txt").open("a", encoding="utf-8")
        with log:
            return subprocess.Popen(
                self.command(stage), cwd=self.folder, env=self.environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def run(self, stage: str) -> float:
        """The seconds of a run, which must succeed."""
        start = time.monotonic()
        if self.start(stage).wait():
            raise RuntimeError(f"{stage} failed:\n{(self.folder / 'log.txt').read_text()[-2000:]}")
        return time.monotonic() - start

    def undisturbed(self) -> None:
        """Runs everything once and takes down what comes out."""
        for stage in small.BEFORE_TRAIN[:2]:
            self.run(stage)
        for stage in STAGES:
            self.seconds[stage] = self.run(stage)
            self.whole[stage] = self.outputs(stage)

    def outputs(self, stage: str) -> str:
        """A digest of every file that a stage writes."""
        found = hashlib.sha256()
        for name in STAGES[stage]:
            path = self.folder / name.format(algorithm=self.algorithm)
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    found.update(f"{file.relative_to(self.folder)}\n".encode() + file.read_bytes())
        return found.hexdigest()

    def left(self) -> list[str]:
        """Partial outputs, locks and unfinished work that are there."""
        names = [path for pattern in (".*.partial", ".*.lock") for path in self.folder.rglob(pattern)]
        work = self.folder / ".cache/alol/stages"
        return sorted(str(path.relative_to(self.folder)) for path in [*names, *work.glob("*/*")])

    def kill(self, stage: str, after: float, target: str, number: int) -> dict[str, Any]:
        """Kills a stage after so many seconds, runs it again; what that cost, and what differs.

        Lost is the time since the stage last wrote down what it had done: on a quiet machine the second run takes that
        much longer than what was left, and a start.
        """
        running = self.start(stage)
        time.sleep(after)
        stopped = time.time()
        if alive := running.poll() is None:
            (os.killpg if target == "group" else os.kill)(running.pid, number)
        running.wait()
        ended = time.time() - stopped
        kept = [path.stat() for path in (self.folder / ".cache/alol/stages").rglob("*") if path.is_file()]
        written = [one.st_mtime for one in kept if one.st_size and one.st_mtime > stopped - after]
        about = len(list((self.folder / ".cache/alol/stages").glob("*/*/about.json")))  # no work by itself
        lost = stopped - max(written) if len(written) > about else after
        partial = [name for name in self.left() if name.endswith(".partial")] if number != signal.SIGKILL else []
        again = self.run(stage)
        return {
            "stage": stage, "signal": f"{signal.Signals(number).name} to the {target}" if alive else "it had ended",
            "after": round(after, 1), "to end": round(ended, 1), "kept, kB": sum(one.st_size for one in kept) // 1000,
            "lost": round(max(0.0, lost), 1) if alive else 0.0, "again": round(again, 1),
            "undisturbed": round(self.seconds[stage], 1), "equal": self.outputs(stage) == self.whole[stage],
            "left": partial + self.left(),
        }  # fmt: skip

    def share(self, stage: str) -> float:
        """How much of the last run's time went into writing unfinished work."""
        cost = json.loads((self.folder / "metrics/cost" / f"{stage}.json").read_text())
        return cost["checkpoint_seconds"] / cost["seconds"]


def table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def starting(trial: Trial) -> float:
    """Seconds that a stage takes before it does anything."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import stages.train"], env=trial.environment, check=True)
    return time.monotonic() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="in all, dealt out over the tasks and stages")
    parser.add_argument("--task", choices=TASKS, action="append", help="by default all")
    parser.add_argument("--algorithm", default="a_lol")
    parser.add_argument("--small", action="store_true", help="the tests' small project instead of the whole demo")
    parser.add_argument("--minutes", type=float, default=0.05, help="launch.checkpoint_minutes")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    draw, failed = random.Random(arguments.seed), 0
    for name in arguments.task or TASKS:
        with tempfile.TemporaryDirectory() as place:
            trial = Trial(Path(place), arguments.algorithm)
            changes = {**TASKS[name], "launch.checkpoint_minutes": arguments.minutes}
            if arguments.small:
                small.write(trial.folder, **{key.replace(".", "__"): value for key, value in changes.items()})
            else:
                raw = project.parameters("demo")
                project.change(raw, changes)
                project.write(trial.folder, raw)
            trial.undisturbed()
            rows = []
            count = arguments.kills // len(arguments.task or TASKS)
            for i in range(count):
                stage = list(STAGES)[i % len(STAGES)]
                target, number = SIGNALS[i % len(SIGNALS)]
                rows.append(trial.kill(stage, draw.uniform(0.1, trial.seconds[stage]), target, number))
                click.echo(rows[-1], err=True)
            failed += sum(not row["equal"] or bool(row["left"]) for row in rows)
            click.echo(f"\n{name}, {arguments.algorithm}: {len(rows)} kills, a start takes {starting(trial):.1f} s\n")
            click.echo(table(rows))
            click.echo("\nShare of a stage's time that went into unfinished work, of its last run:")
            click.echo(", ".join(f"{stage} {trial.share(stage):.1%}" for stage in STAGES))
    click.echo(f"\n{failed} of all kills ended in other outputs or left something behind")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
