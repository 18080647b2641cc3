"""What $ALOL_LAUNCHER runs, the places that launchers give to processes, and the check of the shared folder."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from alol.base.errors import InputError, SharedError
from alol.base.work import Work, claimed
from alol.compute import launch
from alol.config import params
from stages import _launcher, _processes
from tests import small

STAGE = ["python", "-m", "stages.train", "--task", "demo"]
SLURM = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}
HEAD = {"ALOL_HEAD": "login:4711"}


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu[03-07,11],big2", "gpu03"),
        ("gpu[11,03-07]", "gpu11"),
        ("big2,gpu[03-07]", "big2"),
        ("one", "one"),
        ("rack[2-3]n[08-12],x", "rack2n08"),
        ("gpu[03-07]-ib,gpu[08]-ib", "gpu03-ib"),
    ],
)
def test_the_first_host_of_a_list_of_slurm(nodes, host):
    assert _launcher.first_host(nodes) == host


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({**SLURM, "SLURM_STEP_NODELIST": "gpu[03-04]"}, ("3", "8", "1", "gpu03", "4711")),
        ({**SLURM, "SLURM_JOB_NODELIST": "a1,a2"}, ("3", "8", "1", "a1", "4711")),
        (SLURM, ("3", "8", "1", "login", "4711")),
        (
            {
                **SLURM, "SLURM_JOB_NODELIST": "gpu[03-04]", "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "6",
                "OMPI_COMM_WORLD_LOCAL_RANK": "2",
            },
            ("5", "6", "2", "login", "4711"),
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"}, ("1", "2", "0", "login", "4711")),
        ({**SLURM, "PMI_RANK": "3", "PMI_SIZE": "8"}, ("3", "8", "1", "login", "4711")),
    ],
)  # fmt: skip
def test_a_plain_launcher_says_which_process_this_is(environment, place):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    assert _launcher.numbered(HEAD | environment) == dict(zip(names, place, strict=True))


def test_the_place_that_torchrun_gave_stays_and_so_does_a_process_that_merely_runs_under_slurm():
    assert _launcher.numbered(HEAD | SLURM | {"WORLD_SIZE": "16", "RANK": "9"}) == {}
    assert _launcher.numbered(SLURM) == {}


def test_a_launcher_that_numbers_nothing_is_refused():
    batch_step = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}  # no step's: srun did not start it
    with pytest.raises(InputError, match="ALOL_LAUNCHER started this process without saying which of how many it is"):
        _launcher.numbered(HEAD | batch_step)


def test_a_process_of_a_plain_launcher_takes_its_place_and_ends_with_the_launcher(monkeypatch):
    kept = dict(os.environ)
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    try:
        os.environ.update({**HEAD, "PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"})
        _processes.join()
        assert (os.environ["RANK"], os.environ["WORLD_SIZE"], _processes.rank()) == ("1", "2", 1)
        assert "PMI_SIZE" not in os.environ
        assert os.environ["ALOL_PARENT"] == str(os.getppid())
    finally:
        os.environ.clear()
        os.environ.update(kept)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Launchers that are on the path."""
    for name in ("srun", "torchrun", "accelerate", "mpirun"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("srun --ntasks=32 --job-name='a b'", ["srun", "--ntasks=32", "--job-name=a b"]),
        ("mpirun -n 8", ["mpirun", "-n", "8"]),
        ("srun torchrun --nnodes=4", ["srun", "torchrun", "--nnodes=4", "--no_python"]),
        ("srun /opt/bin/torchrun --no-python", ["srun", "/opt/bin/torchrun", "--no-python"]),
        ("accelerate launch --num_processes 8", ["accelerate", "launch", "--num_processes", "8", "--no_python"]),
        ("srun python -m torch.distributed.run", ["srun", "python", "-m", "torch.distributed.run", "--no_python"]),
    ],
)
def test_the_command_is_the_launcher_with_folder_environment_and_stage(programs, text, words):
    found = _launcher.command(text, STAGE, {"ALOL_WORK": "/shared/work", "ALOL_TOKEN": "1f"})
    assert found == [*words, "env", f"--chdir={programs}", "ALOL_WORK=/shared/work", "ALOL_TOKEN=1f", *STAGE]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "ALOL_LAUNCHER is empty; unset it"),
        ("   ", "ALOL_LAUNCHER is empty; unset it"),
        ("srum -n 2", "ALOL_LAUNCHER begins with 'srum', which is no program here"),
        ("srun 'a", 'ALOL_LAUNCHER is "srun \'a", which a shell cannot read (No closing quotation)'),
    ],
)
def test_a_launcher_that_cannot_be_run_is_one_line_of_stage_and_check(programs, monkeypatch, text, said):
    small.write(programs)
    monkeypatch.setenv("ALOL_LAUNCHER", text)
    assert said in small.error("reference")
    from click.testing import CliRunner

    from stages import check

    assert f"Error: {said}" in CliRunner().invoke(check.main, ["--task", "demo"]).stderr


def test_what_is_passed_on_holds_no_secret():
    environment = {
        "ALOL_DATA": "/d",
        "ALOL_LAUNCHER": "srun",
        "GLOO_SOCKET_IFNAME": "ib0",
        "HF_TOKEN": "t",
        "HOME": "/h",
    }
    assert _launcher.passed(environment) == {"ALOL_DATA": "/d", "GLOO_SOCKET_IFNAME": "ib0"}


def launched(launcher: str, command: list[str]) -> int:
    return _processes._launched(launcher, command, {"ALOL_WORK": "w"}, [])


def test_the_launcher_gets_the_work_and_its_exit_code_is_the_stages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert launched("sh -c '\"$@\"; exit 7' sh", ["sh", "-c", 'echo "$ALOL_WORK $ALOL_HEAD $PWD" > said']) == 7
    work, head, folder = Path("said").read_text().split()
    assert (work, folder) == ("w", str(tmp_path))
    assert head.rpartition(":")[2].isdecimal()
    assert launched("nice", ["true"]) == 0


def test_a_launcher_that_was_killed_is_one_line():
    with pytest.raises(InputError, match=r"^sh \(ALOL_LAUNCHER\) was ended by SIGKILL; the same command goes on"):
        launched("sh -c 'kill -9 $$'", ["true"])


def test_a_launcher_is_asked_to_end_when_the_stage_is_killed(tmp_path):
    script = "from stages import _processes\n_processes._launched('nice', ['sleep', '60'], {}, [])"
    environment = {**os.environ, "PYTHONPATH": str(small.ROOT)}
    stage = subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=tmp_path)
    children = Path(f"/proc/{stage.pid}/task/{stage.pid}/children")
    while not (started := children.read_text().split()) or "sleep" not in command_of(started[0]):
        assert stage.poll() is None
        time.sleep(0.02)
    stage.send_signal(signal.SIGKILL)
    stage.wait()
    end = time.monotonic() + 20
    while "sleep" in command_of(started[0]):
        assert time.monotonic() < end
        time.sleep(0.02)


def command_of(process: str) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def test_the_owner_of_unfinished_work_writes_a_token_that_others_compare(tmp_path, monkeypatch):
    monkeypatch.setattr("alol.base.work.LATE", 0.0)
    with claimed(tmp_path, "train", "key", 1.0) as work:
        assert len(work.token) == 32
        other = Work(work.folder, 1.0)
        assert other.unseen(work.token) is None
        assert other.unseen("0" * 32) == "of another run"
        (work.folder / "about.json").write_text("{")
        assert other.unseen(work.token) == "missing"
    assert Work(tmp_path / "train/nothing", 1.0).unseen("0" * 32) == "missing"


def test_what_another_machine_wrote_may_be_seen_late(tmp_path, monkeypatch):
    work = Work(tmp_path, 1.0)
    monkeypatch.setattr("time.sleep", lambda seconds: (tmp_path / "about.json").write_text(json.dumps({"token": "1f"})))
    assert work.unseen("1f") is None


@pytest.mark.parametrize("stage", ["reference", "train"])
def test_every_distributed_stage_checks_that_its_processes_share_a_folder(tmp_path, monkeypatch, stage):
    """By the folder that the environment names, whose owner is another process."""
    monkeypatch.chdir(tmp_path)
    small.write(tmp_path)
    for name, value in {
        "ALOL_WORK": str(tmp_path / "work"),
        "ALOL_TOKEN": "1f",
        "WORLD_SIZE": "1",
        "RANK": "0",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("alol.base.work.time.sleep", lambda seconds: None)
    monkeypatch.setattr("alol.base.work.LATE", 0.0)
    line = small.error(stage)
    assert f"the folder of unfinished work {tmp_path}/work is missing there" in line
    assert line.startswith(f"Error: {os.uname().nodename}: ")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_all_processes_meet_at_once_is_said_by_the_first_alone(tmp_path, monkeypatch, rank):
    def refuse(*_):
        raise SharedError("beta: no folder")

    monkeypatch.chdir(tmp_path)
    small.write(tmp_path)
    monkeypatch.setattr("alol.compute.launch.accelerator", refuse)
    monkeypatch.setattr("stages._cli.time.sleep", lambda seconds: None)
    environment = {"WORLD_SIZE": "2", "RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = small.stage("reference")
    assert result.exit_code == 1
    assert result.stderr == ("Error: beta: no folder\n" if rank == "0" else "")


def test_processes_beyond_a_machines_accelerators_are_refused(monkeypatch):
    AcceleratorState._reset_state(True)
    settings = dataclasses.replace(params.load("demo", root=small.ROOT).launch, device="auto")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(InputError, match=r"has 4 accelerators, but 5 processes or more were started there"):
        launch.accelerator(settings)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert not launch._on_processor(settings)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert launch._on_processor(settings)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not launch._on_processor(settings)  # accelerate's own choice
