"""The stages over rows in several processes, and on a Ray cluster: the same bytes, and models loaded once each."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from alol.config import params
from alol.data import schema
from alol.rewards.network import NetworkReward, device
from tests import small

OUTPUTS = ("annotated", "rollouts", "baselines", "advantages", "generations")
PARTS = {
    "launch__device": "cpu", "launch__wait_minutes": 5.0, "defaults__rewards__scoring__part_rows": 8,
    "tasks__demo__generate__part_rows": 4, "tasks__demo__value__part_rows": 16,
    "tasks__demo__generate__rollout": {"samples": 1, "judge_samples": 2},
}  # fmt: skip


def digests() -> dict[str, str]:
    """What the stages over rows have written: file -> digest."""
    files = [file for name in OUTPUTS for file in sorted(Path("data", name).rglob("*")) if file.is_file()]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A small project in which all stages have run in one process, and what they wrote."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        folder = small.made(tmp_path_factory.mktemp("rows"), [*small.BEFORE_TRAIN, "train", "evaluate"], **PARTS)
        patch.chdir(folder)
        return folder, digests()


@pytest.fixture
def here(project, monkeypatch):
    folder, whole = project
    monkeypatch.chdir(folder)
    small.write(folder, **PARTS)
    yield whole
    assert digests() == whole
    assert not list(Path(".cache/alol/stages").glob("*/*"))
    assert not list(Path("data").rglob(".*.partial"))


def together(command: list[str], count: int) -> list[tuple[int, str]]:
    """The exit code of each of so many processes of one run, as torchrun starts them, and what it says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(small.ROOT)}
    started = []
    for i in range(count):
        own = {**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i)}
        started.append(subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True))
    try:
        said = [process.communicate(timeout=300)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def remove(names) -> None:
    for name in names:
        shutil.rmtree(Path("data", name))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_write_the_same_bytes(here, count):
    small.write(Path(), **PARTS, launch__processes=count)
    remove(OUTPUTS)
    for code, said in together([sys.executable, "-m", "tests.stages.rows"], count):
        assert code == 0, said[-2000:]


BROKEN = """
def broken(prompt, response, context):
    return [float("nan") if "BAD" in text else 1.0 for text in response]
"""


@pytest.mark.slow
def test_a_mistake_that_the_second_process_meets_is_one_line(here, tmp_path):
    folder, columns = tmp_path, schema.RESPONSES
    reward = {"it": {"kind": "python", "function": "custom.broken.broken"}}
    own = {"launch__processes": 2, "tasks__demo__rewards": reward, "tasks__demo__reward__weights": {"it": 1.0}}
    small.write(folder, **PARTS | own)
    found = schema.rows(Path("data/clean/demo/train.parquet"), columns)
    found[9]["response"] = "BAD"  # in the second piece
    shutil.copytree("data/clean/demo", folder / "data/clean/demo")
    schema.write(folder / "data/clean/demo/train.parquet", columns, found)
    (folder / "models/demo/reward_model").mkdir(parents=True)
    (folder / "custom").mkdir()
    (folder / "custom/__init__.py").touch()
    (folder / "custom/broken.py").write_text(BROKEN)
    path = os.pathsep.join([str(folder), str(small.ROOT)])
    command = [sys.executable, "-m", "stages.annotate", "--task", "demo"]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if "Error" in line] == [
        "Error: data/clean/demo/train.parquet, rows from 8 on: reward component 'it' gave nan for row 1 (counted from "
        "0) in custom.broken.broken; it must be a finite number"
    ]
    assert not (folder / "data/annotated").exists() or not list((folder / "data/annotated").rglob("*.parquet"))


@pytest.mark.slow
def test_a_ray_cluster_writes_the_same_bytes(here, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: `make ray`")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(small.ROOT))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default: beside other tests nothing would be left for them
    small.write(Path(), **PARTS, launch__cluster="auto", launch__actors=2)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    remove(["annotated", "advantages", "generations"])
    try:
        small.run(["annotate", "advantage", "evaluate"])
    finally:
        ray.shutdown()


def test_each_model_is_loaded_once_a_run(project, tmp_path, monkeypatch):
    """The models of five folds and the full one score three splits in 37 pieces."""
    monkeypatch.chdir(tmp_path)
    small.write(tmp_path, **PARTS)
    for place in ("data/clean/demo", "models/demo/reward_model"):
        shutil.copytree(project[0] / place, place)
    models = Path("models/demo/reward_model/helpful")
    for i in range(5):
        shutil.copytree(models / "full", models / f"fold{i}")
    loaded, trained = Counter(), NetworkReward.trained
    monkeypatch.setattr(
        NetworkReward, "trained", lambda self, folder: loaded.update([folder.name]) or trained(self, folder)
    )
    small.run(["annotate"])
    assert loaded == {"full": 1, "fold0": 1, "fold1": 1, "fold2": 1, "fold3": 1, "fold4": 1}


def test_reward_models_run_on_the_accelerator_of_their_own_process(monkeypatch):
    launch = params.load("demo", root=small.ROOT).launch
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    assert str(device(launch)) == "cuda:3"
