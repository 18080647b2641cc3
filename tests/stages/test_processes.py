"""Two processes against one: the same draws, the same losses, one model written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alol.models import policies
from tests import small


def run(folder: Path, processes: int, algorithm: str = "a_lol") -> subprocess.CompletedProcess:
    """Runs stage train as a user does."""
    launch = {"processes": processes, "device": "cpu", "precision": "fp32", "micro_batch": 4, "tokens": 8192}
    launch |= {"generate_batch": 4, "recompute": False, "checkpoint_minutes": 1.0, "wait_minutes": 5.0}
    small.write(folder, launch=launch)
    environment = {**os.environ, "PYTHONPATH": str(small.ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stages.train", "--task", "demo", "--algorithm", algorithm]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def train(folder: Path, processes: int, algorithm: str = "a_lol") -> dict:
    """training.json of a run that must succeed."""
    done = run(folder, processes, algorithm)
    assert done.returncode == 0, done.stderr[-2000:]
    return small.read_training(algorithm)


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small.write(tmp_path)
    small.run(small.BEFORE_TRAIN)
    one, two = (train(tmp_path, processes) for processes in (1, 2))
    losses = [np.array([entry["loss"] for entry in run["curve"]]) for run in (one, two)]
    assert len(losses[0]) >= 3
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    rewards = [[entry["reward"] for entry in run["validation"]] for run in (one, two)]
    np.testing.assert_allclose(rewards[1], rewards[0], rtol=1e-4)
    assert [path.name for path in Path("models/demo/a_lol").glob("*.safetensors")] == ["model.safetensors"]
    assert not list(Path("models/demo").glob(".*"))
    policies.load(Path("models/demo/a_lol"))
    assert json.loads(Path("metrics/cost/train.json").read_text())["seconds"] > 0
    online = train(tmp_path, 2, "ppo")["curve"]
    assert len(online) == 2
    assert abs(online[0]["kl"]) < 1e-4
    assert [path.name for path in Path("models/demo/ppo").glob("*.safetensors")] == ["model.safetensors"]


@pytest.mark.slow
def test_a_mistake_is_one_line_with_two_processes_too(tmp_path):
    done = run(tmp_path, 2)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("Error: ")] == [
        "Error: models/demo/reference/policy.json is missing; run `dvc repro` to make it"
    ]
