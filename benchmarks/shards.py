"""The stages over rows in one process, in two, and by two actors on a Ray cluster: time, and whether outputs are equal.

With one thread each, on SmolLM2-135M (`make models`) and real small talk; training of its adapter in two processes
beside them. Then an actor, the stage itself and a machine of the cluster are killed halfway: what that costs.

python -m benchmarks.shards --out shards.json
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from alol.base.files import write_json
from alol.base.text import align
from benchmarks import project

OUTPUTS = {"annotate": "annotated", "rollout": "rollouts", "advantage": "advantages"}
FIRST = ("download", "clean", "reward_model", "annotate", "reference", "rollout", "baseline", "value", "advantage")
ALGORITHM = "a_lol"
TASKS: dict[str, dict[str, Any]] = {
    "chitchat": {
        "clean.limit": 480, "clean.near_duplicates": {"similarity": None},
        "clean.options.shares": {"validation": 0.012, "test": 0.012},
        "reference.epochs": None, "reference.updates": 4, "reference.evaluations": 1, "reference.optimizer.warmup": 0,
        "value.epochs": 2,
        "train.epochs": None, "train.updates": 40, "train.evaluations": 1,
    },
    "demo": {  # for a try
        "source.corpus.options.train_prompts": 60, "source.corpus.options.validation_prompts": 24,
        "source.corpus.options.test_prompts": 24, "source.corpus.options.labels": 90,
        "rewards.helpful.train.width": 16, "rewards.helpful.train.heads": 2, "rewards.helpful.train.epochs": 1,
        "policy.tuning": "lora", "policy.lora": {"r": 4}, "reference.train_on": "preferred",
        "reference.pretrain": {"epochs": None, "updates": 4, "evaluations": 1, "optimizer": {"warmup": 0}},
        "reference.epochs": None, "reference.updates": 4, "reference.evaluations": 1, "reference.optimizer.warmup": 0,
        "value.epochs": 1, "train.epochs": None, "train.updates": 8, "train.evaluations": 1,
    },
}  # fmt: skip


class Side:
    """A project folder, and how its stages are started: `launch` changes how they use the machine."""

    def __init__(self, folder: Path, raw: dict[str, Any], task: str) -> None:
        self.folder, self.raw, self.task = folder, raw, task

    def start(self, stage: str, launch: dict[str, Any]) -> subprocess.Popen:
        self.raw["launch"] |= {"processes": 1, "cluster": None, "actors": None, **launch}
        project.write(self.folder, self.raw)
        command = [sys.executable, "-m", f"stages.{stage}", "--task", self.task]
        command += ["--algorithm", ALGORITHM] if stage == "train" else []
        environment = {**os.environ, "PYTHONPATH": str(project.ROOT), "OMP_NUM_THREADS": "1"}
        with (self.folder / "log.txt").open("w", encoding="utf-8") as log:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def run(self, stage: str, launch: dict[str, Any], halfway: Callable[[int], None] | None = None, after: float = 0.0):
        """Seconds that a stage takes; after some seconds `halfway` is called with its process."""
        start = time.monotonic()
        process = self.start(stage, launch)
        if halfway is not None:
            time.sleep(after)
            if process.poll() is not None:
                raise RuntimeError(f"{stage} had ended before anything could be killed; take more rows")
            halfway(process.pid)
        if process.wait() not in ((-signal.SIGKILL,) if halfway is not None else ()) and process.returncode:
            raise RuntimeError(f"{stage}: {(self.folder / 'log.txt').read_text(encoding='utf-8')[-1000:]}")
        return time.monotonic() - start

    def digest(self, stage: str) -> str:
        """Of all that the stage wrote."""
        found = hashlib.sha256()
        for path in sorted((self.folder / "data" / OUTPUTS[stage]).rglob("*")):
            if path.is_file():
                found.update(path.name.encode() + path.read_bytes())
        return found.hexdigest()

    def losses(self) -> list[float]:
        """Of each update that training noted."""
        path = self.folder / "models" / self.task / ALGORITHM / "training.json"
        return [entry["loss"] for entry in json.loads(path.read_text(encoding="utf-8"))["curve"]]


def parameters(task: str, part_rows: int) -> dict[str, Any]:
    """Those of the project, with few rows in small parts; of prompts to answer half as many are in one."""
    raw = project.parameters(task)
    project.change(raw, {"task": task, "launch.device": "cpu", "launch.checkpoint_minutes": 0.0})
    project.change(raw, {"defaults.rewards.scoring.part_rows": part_rows})
    own = raw["tasks"][task]
    project.change(own, TASKS[task])
    project.change(own, {"generate.part_rows": max(1, part_rows // 2), "value.part_rows": part_rows})
    return raw


def side_by_side(side: Side, cluster: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Each stage over rows in one process, in two, and by two actors; those before them in one."""
    rows = []
    ways = {"two processes": {"processes": 2}, **({"two actors": cluster} if cluster is not None else {})}
    for stage in FIRST:
        one = side.run(stage, {})
        whole = side.digest(stage) if stage in OUTPUTS else None
        for name, launch in ways.items() if stage in OUTPUTS else ():
            taken = side.run(stage, launch)
            row = {"stage": stage, "by": name, "seconds_of_one": round(one, 1), "seconds": round(taken, 1)}
            rows.append(_told({**row, "ratio": round(one / taken, 2), "equal": side.digest(stage) == whole}))
    one, before = side.run("train", {}), side.losses()
    taken, after = side.run("train", ways["two processes"]), side.losses()
    apart = max(abs(x - y) / max(abs(x), 1e-9) for x, y in zip(before, after, strict=True))
    row = {"stage": "train", "by": "two processes", "seconds_of_one": round(one, 1), "seconds": round(taken, 1)}
    return [*rows, _told({**row, "ratio": round(one / taken, 2), "equal": f"to {apart:.0e}"})]


def _told(row: dict[str, Any]) -> dict[str, Any]:
    click.echo(json.dumps(row), err=True)
    return row


def killed(side: Side, launch: dict[str, Any], machines: Any) -> list[dict[str, Any]]:
    """What it costs that an actor, the stage's own process and the second machine are killed halfway."""
    stage = "advantage"
    usual, whole = side.run(stage, launch), side.digest(stage)
    rows = []

    def note(what: str, seconds: float) -> None:
        row = {"stage": stage, "killed": what, "seconds_of_undisturbed": round(usual, 1), "seconds": round(seconds, 1)}
        rows.append(_told({**row, "lost": round(seconds - usual, 1), "equal": side.digest(stage) == whole}))

    note("an actor", side.run(stage, launch, lambda _: os.kill(actor(machines), signal.SIGKILL), usual / 2))
    first = side.run(stage, launch, lambda pid: os.kill(pid, signal.SIGKILL), 0.75 * usual)
    note("the stage", first + side.run(stage, launch))
    second = machines.worker_nodes.copy().pop()
    note("a machine", side.run(stage, launch, lambda _: machines.remove_node(second, allow_graceful=False), usual / 2))
    return rows


def actor(machines: Any) -> int:
    """The process of an actor on the second machine of the cluster."""
    raylet = next(iter(machines.worker_nodes)).all_processes["raylet"][0].process.pid
    for place in Path("/proc").glob("[0-9]*"):
        try:
            above = int((place / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            if above == raylet and (place / "cmdline").read_bytes().startswith(b"ray::Worker"):
                return int(place.name)
        except OSError:  # it has just ended
            continue
    raise RuntimeError("no actor is to be seen")


@click.command()
@click.option("--task", type=click.Choice(list(TASKS)), default="chitchat", help="demo: tiny, to try this.")
@click.option("--part-rows", default=12, help="Rows of a part; chitchat has 480, so 40 parts.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the result.")
def main(task: str, part_rows: int, out: Path | None) -> None:
    """Measure the stages over rows in one process, in two, and on a Ray cluster."""
    with tempfile.TemporaryDirectory() as place:
        side = Side(Path(place), parameters(task, part_rows), task)
        if importlib.util.find_spec("ray") is None:
            click.echo("Ray is not installed: two processes alone are measured; `make ray` brings it", err=True)
            rows, lost = side_by_side(side, None), []
        else:
            os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # as the other sides have it; 15 by default
            from ray.cluster_utils import Cluster

            machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
            try:
                machines.add_node(num_cpus=1)
                launch = {"cluster": machines.address, "actors": 2}
                rows, lost = side_by_side(side, launch), killed(side, launch, machines)
            finally:
                machines.shutdown()
    for found in filter(None, (rows, lost)):
        click.echo(align([list(found[0]), *([str(value) for value in row.values()] for row in found)], 2) + "\n")
    if out is not None:
        write_json(out, {"stages": rows, "killed": lost})


if __name__ == "__main__":
    main()
