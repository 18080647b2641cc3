"""What every command says when the disk, memory or the user ends it: one line, nothing half written, then it works."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from alol.base import faults
from stages import check, compare, convert_critic, evaluate_checkpoint, export, judge
from tests import small
from tests.torture import faults as torture


def run(folder: Path, *command: str, memory: int | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m` with this command as a user does; `memory` bounds the address space, in MiB."""

    def limit() -> None:
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory << 20, memory << 20))

    path = os.pathsep.join([environment.pop("PYTHONPATH", ""), str(small.ROOT)]).strip(os.pathsep)
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, preexec_fn=limit, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )  # fmt: skip


def test_files_that_may_not_grow_end_every_stage_in_one_line_and_then_it_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small.write(tmp_path)
    for i, stage in enumerate(torture.STAGES):
        trial = torture.here(stage, torture.FILE_SIZES[i % 3])
        assert trial.state == "ok", trial
        assert trial.code == 1, trial
        assert trial.lines[0].endswith(faults.SYSTEM[27]), trial


@pytest.mark.parametrize("name", ["download", "clean", "check", "compare"])
def test_too_little_memory_for_the_libraries_is_one_line(tmp_path, name):
    done = run(tmp_path, f"stages.{name}", "--help", memory=torture.TOO_LITTLE)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: a process may map 1,024 MB here (ulimit -v), but the libraries of the stages need 2,048 MB; "
        "raise the limit\n"
    )


@pytest.mark.parametrize(
    ("fails", "line"),
    [
        (
            "raise ImportError('libarrow.so: failed to map segment from shared object')",
            "Error: clean ran out of memory: the process held ",
        ),
        ("raise MemoryError", "Error: clean ran out of memory: the process held "),
        (
            "raise OSError(5, 'Input/output error', 'libarrow.so')",
            "Error: libarrow.so: the disk failed to read or write",
        ),
    ],
)
def test_what_happens_while_modules_load_is_one_line(tmp_path, fails, line):
    (tmp_path / "pyarrow.py").write_text(fails)
    done = run(tmp_path, "stages.clean", "--task", "demo", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_a_bug_stays_a_traceback_that_asks_to_be_reported(tmp_path):
    (tmp_path / "pyarrow.py").write_text("raise KeyError('a bug')")
    done = run(tmp_path, "stages.clean", "--task", "demo", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.splitlines()[-2:] == ["KeyError: 'a bug'", f"{faults.REPORT} (stage clean)."]


COMMANDS = [
    (check.main, []),
    (compare.main, []),
    (convert_critic.main, ["a", "b", "--base", "c"]),
    (evaluate_checkpoint.main, ["name", "--adapter", "x"]),
    (export.main, ["a_lol", "--to", "x"]),
    (judge.main, ["a", "b"]),
    (small.command("clean"), ["--task", "demo"]),
]


@pytest.mark.parametrize(("command", "arguments"), COMMANDS, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MemoryError(), 1, " ran out of memory: the process held "),
        (OSError(28, "No space left on device", "somewhere"), 1, "somewhere: the disk is full"),
        (PermissionError(13, "Permission denied", "/data/x.jsonl"), 1, "/data/x.jsonl: permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["memory", "full", "rights", "interrupt"],
)
def test_every_command_has_the_same_words(monkeypatch, command, arguments, error, code, line):
    def fail(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr("alol.config.yaml_files.read", fail)
    monkeypatch.setattr("alol.rewards.convert_critic.convert", fail)
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == code, done.output
    assert done.stderr.startswith("Error: ")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_bug_is_not_hidden_by_a_command(monkeypatch):
    def fail(*given: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("alol.config.yaml_files.read", fail)
    done = CliRunner().invoke(small.command("clean"), ["--task", "demo"])
    assert isinstance(done.exception, KeyError)


def test_nobody_reading_the_output_is_no_mistake(tmp_path):
    small.write(tmp_path)
    command = f"{sys.executable} -m stages.check | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(small.ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode in (0, 1)
