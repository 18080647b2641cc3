"""Two processes against one: the same draws, the same losses, one model written."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alol.models import policies
from tests import small


def run(folder: Path, processes: int, algorithm: str = "a_lol", *, shard: bool = False) -> subprocess.CompletedProcess:
    """Runs stage train as a user does."""
    launch = {"processes": processes, "device": "cpu", "precision": "fp32", "micro_batch": 4, "tokens": 8192}
    launch |= {"generate_batch": 4, "recompute": False, "shard": shard, "checkpoint_minutes": 1.0, "wait_minutes": 5.0}
    small.write(folder, launch=launch)
    with ended(start(folder, algorithm)) as process:
        said = process.communicate(timeout=300)[1]
    return subprocess.CompletedProcess(process.args, process.returncode, stderr=said)


@contextlib.contextmanager
def ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """The process, which is no more when the block ends: at once, with its children, if a test failed."""
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def start(folder: Path, algorithm: str = "a_lol") -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(small.ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stages.train", "--task", "demo", "--algorithm", algorithm]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def train(folder: Path, processes: int, algorithm: str = "a_lol", *, shard: bool = False) -> dict:
    """training.json of a run that must succeed."""
    done = run(folder, processes, algorithm, shard=shard)
    assert done.returncode == 0, done.stderr[-2000:]
    return small.read_training(algorithm)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in which everything before train has run."""
    return small.made(tmp_path_factory.mktemp("processes"), small.BEFORE_TRAIN)


def alike(run: dict, other: dict) -> None:
    """The losses and the validation rewards of two runs."""
    for part, key in (("curve", "loss"), ("validation", "reward")):
        found, expected = ([entry[key] for entry in one[part]] for one in (run, other))
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_two_processes_that_share_the_weights_train_as_one_does(project, monkeypatch):
    monkeypatch.chdir(project)
    alike(train(project, 2, shard=True), train(project, 1))
    policy = policies.load(Path("models/demo/a_lol"))
    names = sorted(path.name for path in Path("models/demo/a_lol").iterdir())
    assert names == sorted([*(path.name for path in Path("models/demo/reference").iterdir()), "validation.parquet"])
    assert sum(weight.numel() for weight in policy.model.parameters()) == small.read_training()["parameters"]


@pytest.mark.slow
def test_two_processes_train_as_one_does(project, monkeypatch):
    monkeypatch.chdir(project)
    one, two = (train(project, processes) for processes in (1, 2))
    assert len(one["curve"]) >= 3
    alike(two, one)
    assert [path.name for path in Path("models/demo/a_lol").glob("*.safetensors")] == ["model.safetensors"]
    assert not list(Path("models/demo").glob(".*"))
    policies.load(Path("models/demo/a_lol"))
    assert json.loads(Path("metrics/cost/train.json").read_text())["seconds"] > 0
    online = train(project, 2, "ppo")["curve"]
    assert len(online) == 2
    assert abs(online[0]["kl"]) < 1e-4
    assert [path.name for path in Path("models/demo/ppo").glob("*.safetensors")] == ["model.safetensors"]


def children(parent: int) -> dict[str, int]:
    """The rank and the number of each process that a stage has started."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):  # of one that has just ended
            above = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (place / "environ").read_text().split("\0") if above == parent else []
            found[next(one for one in variables if one.startswith("RANK=")).removeprefix("RANK=")] = int(place.name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_of_two_processes_is_killed_the_stage_ends_with_one_line(project, monkeypatch, rank):
    monkeypatch.chdir(project)
    keys = {"launch__processes": 2, "launch__device": "cpu", "launch__checkpoint_minutes": 0}
    small.write(project, **keys, tasks__demo__train__updates=10_000, seed=2 + rank)
    kept = set(Path(".cache/alol/stages/train").glob("*/train/0*"))
    with ended(start(project)) as process:
        while set(Path(".cache/alol/stages/train").glob("*/train/0*")) <= kept and process.poll() is None:
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()[1]
        os.kill(children(process.pid)[str(rank)], signal.SIGKILL)
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert "Traceback" not in said
    [line] = [line for line in said.splitlines() if "Error" in line]
    assert line.startswith(f"Error: process {rank + 1} of 2 was ended by SIGKILL")


@pytest.mark.slow
def test_a_mistake_is_one_line_with_two_processes_too(tmp_path):
    done = run(tmp_path, 2)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("Error: ")] == [
        "Error: models/demo/reference/policy.json is missing; run `dvc repro` to make it"
    ]
