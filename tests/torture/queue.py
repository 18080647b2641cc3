"""Experiments side by side: a queue with several workers, two in temporary folders, a comparison beside them.

python -m tests.torture.queue

Each experiment's numbers must be those that it has alone, and nothing of one may be left or taken up by another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks import project
from tests import small
from tests.stages.test_dvc import Project

ALONE = {"algorithm": ("a_lol", "nll"), "seed": (1, 2)}
TEMPORARY = ({"algorithm": "wbc", "seed": 1}, {"algorithm": "r_gold", "seed": 1})


def prepared(folder: Path) -> Project:
    """A repository with the tests' small demo, in which the default run is committed."""
    made = Project(folder)
    raw = project.parameters("demo")
    for path, values in small.SMALL.items():
        project.change(raw["tasks"]["demo"], {f"{path}.{key}": value for key, value in values.items()})
    project.change(raw, {"launch.checkpoint_minutes": 0, "tasks.demo.train.updates": 60})
    project.write(made.folder, raw)
    made.run("dvc", "repro", "--quiet")
    made.commit()
    return made


def experiments(made: Project) -> list[dict[str, Any]]:
    """Algorithm, seed and the summary's numbers of every experiment that DVC knows."""
    shown = json.loads(made.run("dvc", "exp", "show", "--json"))
    found = []
    for base in shown:
        for one in base.get("experiments") or []:
            revision = one["revs"][0]["rev"]
            names = (
                made.run("git", "show", f"{revision}:params.yaml"),
                made.run("git", "show", f"{revision}:metrics/summary.json"),
            )
            params = project.YAML(typ="safe").load(names[0])
            found.append({"algorithm": params["algorithm"], "seed": params["seed"], "summary": json.loads(names[1])})
    return found


def alone(made: Project, settings: dict[str, Any]) -> dict[str, Any]:
    """The numbers of an experiment that runs in the checkout, with nothing beside it."""
    options = [part for key, value in settings.items() for part in ("-S", f"{key}={value}")]
    made.run("dvc", "exp", "run", "--quiet", *options)
    summary = made.summary()
    made.run("git", "checkout", "--quiet", ".")
    made.run("dvc", "checkout", "--quiet")
    return summary


@click.command(help=__doc__)
@click.option("--workers", default=4, show_default=True)
@click.option("--cold", is_flag=True, help="Nothing is in DVC's cache: the workers make the same reference too.")
def main(workers: int, cold: bool) -> None:
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        busy, quiet = prepared(Path(first)), prepared(Path(second))
        if cold:
            for name in ("data", "models", ".dvc/cache"):
                subprocess.run(["rm", "-rf", busy.folder / name], check=True)
        settings = [{"algorithm": name, "seed": seed} for name in ALONE["algorithm"] for seed in ALONE["seed"]]
        for one in settings:
            options = [part for key, value in one.items() for part in ("-S", f"{key}={value}")]
            busy.run("dvc", "exp", "run", "--queue", *options)
        busy.run("dvc", "queue", "start", "--jobs", str(workers))
        python = Path(sys.executable).parent
        environment = {**os.environ, "PATH": f"{python}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        beside = []
        for one in TEMPORARY:
            options = [part for key, value in one.items() for part in ("-S", f"{key}={value}")]
            command = ["dvc", "exp", "run", "--temp", *options]
            beside.append(
                subprocess.Popen(
                    command,
                    cwd=busy.folder,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        compared = busy.run("python", "-m", "stages.compare")
        said = [process.communicate()[0] for process in beside]
        while "Running" in (status := busy.run("dvc", "queue", "status")) or "Queued" in status:
            time.sleep(3)
        click.echo(status)
        failed = [text[-500:] for text, process in zip(said, beside, strict=True) if process.returncode]
        found = {(one["algorithm"], one["seed"]): one["summary"] for one in experiments(busy)}
        rows = []
        for one in [*settings, *TEMPORARY]:
            whole = alone(quiet, one)
            mine = found.get((one["algorithm"], one["seed"]))
            equal = "missing" if mine is None else mine == whole
            rows.append([one["algorithm"], str(one["seed"]), f"{whole['policy']['all']['reward']:.6g}", str(equal)])
        click.echo("\n".join(["algorithm seed reward equal", *(" ".join(row) for row in rows)]))
        left = [str(path) for path in (busy.folder / ".cache/alol/stages").glob("*/*")]
        click.echo(f"compare beside them: {'runs in' in compared}; left of unfinished work: {left}; failed: {failed}")
        if left or failed or any(row[-1] != "True" for row in rows):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
