"""Writes that are all or nothing: one writer at a time, and nothing of a killed one stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from alol.base.errors import InputError
from alol.base.files import replacing
from alol.base.locks import Lock
from tests.small import ROOT

WRITER = """
import time
from pathlib import Path
from alol.base.files import replacing
with replacing(Path("out")) as partial:
    {make}
    print("writing", flush=True)
    time.sleep(60)
"""
FOLDER = 'partial.mkdir(); (partial / "part").write_text("half")'
FILE = 'partial.write_text("half")'


def writer(folder, make):
    """A process that is in the middle of writing `out`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER.format(make=make)]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


@pytest.mark.parametrize("make", [FOLDER, FILE], ids=["folder", "file"])
def test_what_a_killed_writer_left_is_swept_and_a_living_one_is_not_disturbed(tmp_path, make):
    process = writer(tmp_path, make)
    with pytest.raises(InputError, match="out is being written by another process"), replacing(tmp_path / "out"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert {path.name for path in tmp_path.iterdir()} == {".out.lock", f".out.{process.pid}.partial"}
    with replacing(tmp_path / "out") as partial:
        assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]
        partial.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_partials_of_the_same_target_are_swept(tmp_path):
    others = [".out.json.12.partial", ".out.partial", ".other.12.partial", ".out.12.partial.txt"]
    for name in [*others, ".out.12.partial"]:
        (tmp_path / name).mkdir()
    with replacing(tmp_path / "out") as partial:
        partial.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "out"])


def test_a_file_takes_the_place_of_a_folder_and_a_folder_that_of_a_file(tmp_path):
    target = tmp_path / "out"
    for make in ("file", "folder", "folder", "file", "file"):
        with replacing(target) as partial:
            partial.mkdir() if make == "folder" else partial.write_text("x")
        assert target.is_dir() == (make == "folder")


def test_a_lock_is_waited_for_and_shared_ones_are_held_together(tmp_path):
    path = tmp_path / "lock"
    first, second = Lock(path), Lock(path)
    assert first.take(shared=True)
    assert second.take(shared=True)
    assert not Lock(path).take()
    second.release()
    first.release()
    assert first.take()
    assert not second.take(shared=True)
    threading.Timer(0.3, first.release).start()
    start = time.monotonic()
    assert second.take(wait=True)  # although the first one removes the file
    assert time.monotonic() - start > 0.2
    assert path.exists()
    second.release()
    assert not path.exists()
