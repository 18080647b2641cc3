"""A stage on two machines (network namespaces) against two processes of one, and what it says if they share nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import small
from tests.stages import machines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(machines.absent() is not None, reason=f"two machines: {machines.absent()}"),
]
TORCHRUN = [
    str(Path(sys.executable).with_name("torchrun")), "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
    "--rdzv-endpoint=alpha:29511",
]  # fmt: skip
LAUNCH = {"device": "auto", "precision": "fp32", "micro_batch": 4, "tokens": 8192, "generate_batch": 4}
LAUNCH |= {"recompute": False, "checkpoint_minutes": 0.0, "wait_minutes": 2.0}
PLACE = Path(".cache/alol/stages/reference")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """What the reference is trained on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(small.ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return small.made(tmp_path, ["download", "clean"], launch={**LAUNCH, "processes": 1})


@pytest.fixture
def pair(tmp_path):
    with machines.two(tmp_path) as holders:
        yield holders


def on(holders: Sequence[int], *runner: str) -> list[str]:
    """Begins a command that runs on each of the machines."""
    return [sys.executable, machines.__file__, ",".join(map(str, holders)), *runner]


def result() -> tuple[dict, bytes]:
    folder = Path("models/demo/reference")
    return json.loads((folder / "training.json").read_text()), (folder / "model.safetensors").read_bytes()


def test_two_machines_train_what_two_processes_of_one_do_also_after_a_kill(project, pair, monkeypatch, capfd):
    """By plain srun until one is killed, and by srun torchrun from there."""
    longer = {"tasks__demo__reference__updates": 40}
    small.write(project, launch={**LAUNCH, "processes": 2}, **longer)
    small.run(["reference"])
    expected = result()
    assert len(expected[0]["curve"]) == 40
    small.write(project, launch={**LAUNCH, "processes": 1}, **longer)
    monkeypatch.setenv("ALOL_LAUNCHER", shlex.join(on(pair)))
    killer = threading.Thread(target=kill_when_under_way, args=(project,), daemon=True)
    killer.start()
    capfd.readouterr()
    assert small.stage("reference").exit_code == signal.SIGKILL  # as the launcher says it
    killer.join(10)
    assert "Error: another process of this run has ended, or its machine cannot be reached" in capfd.readouterr().err
    assert rank(0, project) is rank(1, project) is None
    assert list(PLACE.glob("*/*/0*"))
    monkeypatch.setenv("ALOL_LAUNCHER", shlex.join(on(pair, *TORCHRUN)))
    small.run(["reference"])
    assert result() == expected
    assert json.loads(Path("metrics/launch/reference.json").read_text())[0]["processes"] == 2
    assert not list(PLACE.iterdir())


def kill_when_under_way(folder: Path) -> None:
    while not list((folder / PLACE).glob("*/*/0*")):
        time.sleep(0.01)
    os.kill(rank(1, folder), signal.SIGKILL)


def rank(number: int, folder: Path) -> int | None:
    """The process with this number of a stage that runs in the folder."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # of one that has just ended
            running = "stages.reference" in (place / "cmdline").read_text().split("\0")[1:3]
            named = f"SLURM_PROCID={number}" in (place / "environ").read_text().split("\0")
            if named and running and (place / "cwd").resolve() == folder:
                return int(place.name)
    return None


@pytest.mark.parametrize("old", [False, True])
def test_a_machine_that_does_not_share_the_folder_is_named_in_one_line(project, pair, old):
    """Started by hand: the first process owns the work, and the other has nothing, or what an earlier run left."""
    PLACE.mkdir(parents=True)
    subprocess.run([*machines.enter(pair[1]), "mount", "-t", "tmpfs", "none", str(project / PLACE)], check=True)
    stage = ["sh", "-c", f"cd {project}; exec {sys.executable} -m stages.reference --task demo"]
    command = on(pair, "env", "ALOL_HEAD=nobody:29512", *stage)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while old and process.poll() is None:
            if keys := [path.parent.name for path in PLACE.glob("*/about.json")]:
                left = f"cd {project / PLACE}; mkdir {keys[0]}; echo '{{}}' > {keys[0]}/about.json"
                subprocess.run([*machines.enter(pair[1]), "sh", "-ec", left], check=True)
                break
            time.sleep(0.05)
        lines = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 1
    [line] = [line for line in lines if "Error" in line]
    assert line.startswith(f"Error: beta: the folder of unfinished work {project / PLACE}/")
    assert f"is {'of another run' if old else 'missing'} there, and not that of the other processes" in line
    assert "Traceback" not in "".join(lines)
    assert not Path("models/demo/reference").exists()
