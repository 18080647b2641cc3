"""Stages that are killed: the same command goes on, writes the same bytes, and leaves nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alol.base import work
from alol.base.errors import InputError
from alol.compute import progress
from alol.config import params
from alol.data import parts
from stages import _processes
from tests import small
from tests.torture import kills


class Killed(Exception):
    """Ends a stage at once, as a signal would."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A small project in which the stages before `train` have run."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small.write(folder, launch__checkpoint_minutes=0)
        small.run(small.BEFORE_TRAIN)
    return folder


@pytest.fixture
def here(project, monkeypatch):
    monkeypatch.chdir(project)
    small.write(project, launch__checkpoint_minutes=0)
    return project


def digests(stage: str, algorithm: str = "a_lol") -> dict[str, str]:
    """What a stage has written: file -> digest."""
    roots = [Path(name.format(algorithm=algorithm)) for name in kills.STAGES[stage]]
    files = [file for root in roots for file in (sorted(root.rglob("*")) if root.is_dir() else [root])]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def killed(monkeypatch, writings: int, where) -> list[int]:
    """From now on a stage is killed after it has written its unfinished work so many times."""
    count = [0]
    write = where.write

    def written(self, *arguments, **keywords):
        write(self, *arguments, **keywords)
        count[0] += 1
        if count[0] == writings:
            raise Killed

    monkeypatch.setattr(where, "write", written)
    return count


@pytest.fixture
def eager(monkeypatch):
    """Unfinished work is written as soon as there is any."""
    monkeypatch.setattr(work.Governor, "due", lambda self, size, last=False: True)


LOOPS = [
    ("reference", "a_lol", 1), ("reference", "a_lol", 5), ("reference", "a_lol", 8),
    ("value", "a_lol", 1), ("value", "a_lol", 4), ("value", "a_lol", 6),
    ("reward_model", "a_lol", 1), ("reward_model", "a_lol", 3),
    ("train", "a_lol", 1), ("train", "a_lol", 4), ("train", "a_lol", 6), ("train", "dpo", 3), ("train", "ppo", 1),
    ("train", "ppo", 2), ("train", "wbc", 7),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "algorithm", "writings"), LOOPS)
def test_a_killed_loop_goes_on_and_ends_the_same(here, eager, stage, algorithm, writings):
    small.run([stage], algorithm)
    whole = digests(stage, algorithm)
    with pytest.MonkeyPatch.context() as patch:
        killed(patch, writings, progress.Progress)
        assert isinstance(small.stage(stage, algorithm).exception, Killed)
    restored = []
    with pytest.MonkeyPatch.context() as patch:
        restore = progress.Progress.restore
        patch.setattr(progress.Progress, "restore", lambda *given: restored.append(restore(*given)) or restored[-1])
        small.run([stage], algorithm)
    assert [found for found in restored if found is not None]
    assert digests(stage, algorithm) == whole
    assert not list(Path(".cache/alol/stages").glob("*/*"))


@pytest.mark.parametrize("stage", ["annotate", "rollout", "baseline", "advantage", "evaluate"])
@pytest.mark.parametrize("writings", [1, 2])
def test_killed_rows_are_not_computed_again(here, eager, monkeypatch, stage, writings):
    monkeypatch.setattr("alol.data.schema.BATCH_ROWS", 16)
    small.run(["train"] if stage == "evaluate" else [])
    changed = {"generate": {"part_rows": 5}, "value": {"part_rows": 5}}
    load = params.load

    def smaller(*given):
        loaded = load(*given)
        sections = {name: dataclasses.replace(getattr(loaded, name), **keys) for name, keys in changed.items()}
        return dataclasses.replace(loaded, **sections)

    monkeypatch.setattr(params, "load", smaller)
    small.run([stage])
    whole = digests(stage)
    with pytest.MonkeyPatch.context() as patch:
        killed(patch, writings, parts.Parts)
        assert isinstance(small.stage(stage).exception, Killed)
    work_of_stage = Path(".cache/alol/stages", stage)
    stored = {(path.parent.name, path.stem) for path in work_of_stage.rglob("*.parquet")}
    assert len(stored) == writings
    computed = set()
    with pytest.MonkeyPatch.context() as patch:
        add = parts.Parts.add

        def added(self, number, rows):
            computed.add((self._work.folder.name, f"{number:09d}"))
            add(self, number, rows)

        patch.setattr(parts.Parts, "add", added)
        small.run([stage])
    assert computed
    assert not computed & stored
    assert digests(stage) == whole
    assert not list(work_of_stage.iterdir())


def test_a_damaged_part_is_computed_again(here, eager, monkeypatch):
    monkeypatch.setattr("alol.data.schema.BATCH_ROWS", 16)
    small.run(["baseline"])
    whole = digests("baseline")
    with pytest.MonkeyPatch.context() as patch:
        killed(patch, 2, parts.Parts)
        small.stage("baseline")
    first = sorted(Path(".cache/alol/stages/baseline").rglob("*.parquet"))[0]
    first.write_bytes(first.read_bytes()[:-20])
    small.run(["baseline"])
    assert digests("baseline") == whole


@pytest.mark.parametrize("name", ["tensors.safetensors", "values.json"])
def test_damaged_progress_is_said_and_the_stage_starts_anew(here, eager, name):
    small.run(["train"])
    whole = digests("train")
    with pytest.MonkeyPatch.context() as patch:
        killed(patch, 3, progress.Progress)
        assert isinstance(small.stage("train").exception, Killed)
    path = next(Path(".cache/alol/stages/train").rglob(name))
    path.write_bytes(path.read_bytes()[:-20])
    assert "is damaged" in small.stage("train").stderr
    assert digests("train") == whole


def test_work_of_other_parameters_inputs_or_code_is_not_taken_up(here, eager):
    def keys() -> set[str]:
        with pytest.MonkeyPatch.context() as patch:
            killed(patch, 1, progress.Progress)
            assert isinstance(small.stage("train").exception, Killed)
        return {path.name for path in Path(".cache/alol/stages/train").iterdir() if path.is_dir()}

    first = keys()
    assert len(first) == 1
    small.write(here, launch__checkpoint_minutes=0, launch__micro_batch=3)
    assert keys() == first  # how the machine is used is no other work
    small.write(here, launch__checkpoint_minutes=0, seed=2)
    assert len(keys()) == 2
    small.write(here, launch__checkpoint_minutes=0)
    source = Path("data/clean/demo/train.parquet")
    content = source.read_bytes()
    small.write(here, launch__checkpoint_minutes=0, tasks__demo__clean__limit=59)
    small.run(["clean"])
    assert len(keys()) == 3
    small.write(here, launch__checkpoint_minutes=0)
    small.run(["clean"])
    assert source.read_bytes() == content
    Path("custom").mkdir()
    Path("custom/mine.py").write_text("ANSWER = 42\n")
    try:
        assert len(keys()) == 4
    finally:
        Path("custom/mine.py").unlink()
        Path("custom").rmdir()
    for place in Path(".cache/alol/stages/train").iterdir():
        os.utime(place, (0, 0))
        for path in place.rglob("*"):
            os.utime(path, (0, 0))
    small.run(["train"])
    assert not list(Path(".cache/alol/stages/train").iterdir())  # a week later nobody wants them


def test_the_second_of_two_in_one_folder_is_refused_and_one_elsewhere_waits(here, tmp_path, monkeypatch):
    root = tmp_path / "stages"
    with work.claimed(root, "train", "key", 1.0):
        with pytest.raises(InputError, match="stage train is at work in this folder already"):
            work.claimed(root, "train", "key", 1.0).__enter__()
        script = (
            "from pathlib import Path\nfrom alol.base import work\n"
            f"with work.claimed(Path({str(root)!r}), 'train', 'key', 1.0) as mine:\n"
            "    print((mine.folder / 'done').read_text())"
        )
        environment = {**os.environ, "PYTHONPATH": str(small.ROOT)}
        waiting = subprocess.Popen(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )
        while not (root / "train/key.waiting").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        assert waiting.poll() is None
        (root / "train/key/done").write_text("half of it")
    assert waiting.communicate()[0] == "half of it\n"  # what the first one did is left for who waits
    assert not list((root / "train").iterdir())


def start(folder: Path, stage: str, *, algorithm: bool = True) -> subprocess.Popen:
    own = {**os.environ, "PYTHONPATH": str(small.ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"stages.{stage}", "--task", "demo"]
    command += ["--algorithm", "a_lol"] if algorithm else []
    return subprocess.Popen(command, cwd=folder, env=own, stderr=subprocess.PIPE, text=True, start_new_session=True)


def running(session: int) -> list[int]:
    """The processes of a session that are alive."""
    found = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(session)], capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "Z" not in line.split()[1]]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A small project that trains adapters in two processes; what `train` writes there undisturbed."""
    folder = tmp_path_factory.mktemp("adapters")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(small.ROOT))
        launch = {"launch__checkpoint_minutes": 0, "launch__processes": 2, "launch__device": "auto"}
        for name in (*small.BEFORE_TRAIN, "train"):
            processes = 2 if name in ("reference", "train") else 1  # the others are test_rows' affair
            own = {"launch__processes": processes, "tasks__demo__policy__tuning": "lora"}
            small.write(folder, **launch | own, tasks__demo__train__updates=100)
            small.run([name])
        return folder, digests("train")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_adapters_in_two_processes_survive_a_signal_to_the_first_process(adapters, monkeypatch, number):
    folder, whole = adapters
    monkeypatch.chdir(folder)
    process = start(folder, "train")
    try:
        while not (written := list(Path(".cache/alol/stages/train").glob("*/train/0*"))) and process.poll() is None:
            time.sleep(0.05)
        assert written, process.communicate()[1][-2000:]
        os.kill(process.pid, number)
        process.wait(30)
        end = time.monotonic() + 30
        while running(process.pid) and time.monotonic() < end:
            time.sleep(0.1)
        assert running(process.pid) == []
    finally:
        for left in running(process.pid):
            os.kill(left, signal.SIGKILL)
    assert number == signal.SIGKILL or not list(Path("models/demo").glob(".*"))
    again = start(folder, "train")
    said = again.communicate(timeout=300)[1]
    assert again.returncode == 0, said[-2000:]
    assert digests("train") == whole
    assert not list(Path(".cache/alol/stages").glob("*/*"))
    assert not list(Path("models/demo").glob(".*"))


SLOW = """
import time
from pathlib import Path


def slow(prompt, response, context):
    Path("running").touch()
    time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_is_no_mistake_of_a_reward_function_that_runs(here, tmp_path, number, code):
    reward = {"kind": "python", "function": "custom.slow.slow"}
    small.write(tmp_path, tasks__demo__rewards={"it": reward}, tasks__demo__reward__weights={"it": 1.0})
    shutil.copytree(here / "data/clean", tmp_path / "data/clean")
    (tmp_path / "models/demo/reward_model").mkdir(parents=True)
    (tmp_path / "custom").mkdir()
    (tmp_path / "custom/__init__.py").touch()
    (tmp_path / "custom/slow.py").write_text(SLOW)
    process = start(tmp_path, "annotate", algorithm=False)
    while not (tmp_path / "running").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == code, said
    assert [line for line in said.splitlines() if "Error" in line] == (["Error: interrupted"] if code == 130 else [])
    assert not list((tmp_path / "data").glob(".*"))


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is '2'"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK is 'x'"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "", "RANK": "0"}, "WORLD_SIZE is ''"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
    ],
)
@pytest.mark.parametrize("stage", ["train", "annotate"])
def test_an_environment_of_several_processes_that_is_incomplete_is_one_line(
    here, monkeypatch, stage, environment, said
):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert said in small.error(stage)


TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.mark.parametrize("stage", ["value", "reward_model", "clean"])
def test_a_stage_of_one_process_is_refused_under_torchrun(here, monkeypatch, stage):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert small.error(stage) == (
        f"Error: stage {stage} runs in one process, whatever launch.processes says; start it without torchrun or "
        "accelerate launch, and unset WORLD_SIZE"
    )


def test_a_stage_that_a_cluster_computes_is_refused_under_torchrun(here, monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    small.write(here, launch__checkpoint_minutes=0, launch__cluster="local")
    assert small.error("annotate") == (
        "Error: with launch.cluster, stage annotate runs in one process, whatever launch.processes says; start it "
        "without torchrun or accelerate launch, and unset WORLD_SIZE"
    )


def test_processes_are_started_by_the_stages_that_params_yaml_names(here, monkeypatch):
    started = []
    relaunch = _processes.relaunch

    def counted(name, *given):
        started.append(name)
        assert relaunch(name, [], dataclasses.replace(given[1], processes=1), *given[2:]) is None
        return 0

    monkeypatch.setattr(_processes, "relaunch", counted)
    small.write(here, launch__checkpoint_minutes=0, launch__processes=2)
    stages = ["reference", "annotate", "rollout", "baseline", "advantage", "train", "evaluate"]
    small.run(["clean", *stages, "reward_model", "value"])
    assert started == stages
    started.clear()
    small.write(here, launch__checkpoint_minutes=0, launch__processes=2, launch__cluster="nowhere")
    assert [small.stage(name).exit_code for name in ("reference", "annotate", "train")] == [0, 1, 0]
    assert started == ["reference", "train"]  # the others ask the cluster


def test_a_mistake_is_said_by_the_first_process_and_later_by_another_where_that_did_not(here, monkeypatch):
    slept = []
    monkeypatch.setattr("stages._cli.time.sleep", slept.append)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    small.error("value")
    assert slept == []
    monkeypatch.setenv("RANK", "1")
    small.error("value")
    assert slept == [_processes.PAUSE]


def test_a_process_that_was_killed_is_named_and_the_others_are_not_waited_for():
    started = [subprocess.Popen(["sh", "-c", command]) for command in ("exec sleep 60", "kill -9 $$")]
    with pytest.raises(InputError, match=r"process 2 of 2 was ended by SIGKILL, .* lower launch.micro_batch"):
        _processes._wait(started)
    _processes._end(started)
    assert started[0].returncode == -signal.SIGTERM
    assert _processes._wait([subprocess.Popen(["sh", "-c", f"exit {code}"]) for code in (0, 3)]) == 3


def test_fewer_accelerators_than_processes_is_one_line(here, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    small.write(here, launch__processes=3)
    assert "launch.processes is 3, but each needs an accelerator and this machine has 2" in small.error("train")


def test_without_an_accelerator_processes_run_on_the_processor(monkeypatch):
    launch = dataclasses.replace(params.load("demo", root=small.ROOT).launch, processes=8, device="auto")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert not _processes._accelerators(launch)


def test_what_killed_commands_left_is_shown_and_removed(here, eager):
    from click.testing import CliRunner

    from stages import clear

    with pytest.MonkeyPatch.context() as patch:
        killed(patch, 1, progress.Progress)
        assert isinstance(small.stage("train").exception, Killed)
    Path("data/.clean.123.partial").mkdir()
    place = next(path for path in Path(".cache/alol/stages/train").iterdir() if path.is_dir())
    assert json.loads((place / "about.json").read_text())["stage"] == "train"
    shown = CliRunner().invoke(clear.main, ["--list"]).output
    assert str(place) in shown
    assert "data/.clean.123.partial" in shown
    assert place.exists()
    assert CliRunner().invoke(clear.main, []).output.count("removed") == 2
    assert not place.exists()
    assert not Path("data/.clean.123.partial").exists()
    assert "nothing is left" in CliRunner().invoke(clear.main, []).output
