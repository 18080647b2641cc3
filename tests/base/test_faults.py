"""What disks, memory and libraries do to a run becomes one line with the file; a bug of ours does not."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os

import numpy as np
import pyarrow as pa
import pytest
import torch

from alol.base import faults
from alol.base.errors import InputError, about
from alol.base.files import replacing, write_json
from alol.config.sections import Clean, Judge, Launch, Value
from alol.rewards.options import Classifier, Training


def failed(error: BaseException, cause: BaseException | None = None, context: BaseException | None = None):
    """The error as it arrives, with what led to it."""
    error.__context__ = context
    if cause is not None:
        error.__cause__ = cause
    return error


@pytest.mark.parametrize("number", sorted(faults.SYSTEM), ids=lambda number: errno.errorcode[number])
def test_an_error_of_the_system_is_one_line_with_the_file_and_what_to_do(number):
    line = faults.line(OSError(number, os.strerror(number), "data/clean/demo/train.parquet"), "clean")
    assert line == f"data/clean/demo/train.parquet: {faults.SYSTEM[number]}"
    assert "; " in line


def test_a_file_of_the_project_that_is_imported_and_not_there_is_named():
    line = faults.line(ModuleNotFoundError("No module named 'alol.rewards.mine'", name="alol.rewards.mine"), "check")
    assert line == "alol/rewards/mine.py is not there, but other code imports it; write it, or take the import out"
    assert faults.line(ModuleNotFoundError("No module named 'numpy'", name="numpy"), "check") is None


FULL = "data/x: the disk is full; free some space, then run the same command again"
LARGE = "data/x: it would grow larger than files may be here; raise the limit (ulimit -f), then run "


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FULL),
        (OSError(errno.EFBIG, "Error writing bytes to file. Detail: [errno 27] File too large"), LARGE),
        (OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"), FULL),
        (Exception("No space left on device (os error 28)"), FULL),
        (Exception("Error while serializing: I/O error: File too large (os error 27)"), LARGE),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "data/x: it could not"),
        (OSError("100000 requested and 234 written"), "data/x: it could not be read or written (100000 requested"),
    ],
)
def test_a_write_that_a_library_fails_at_names_the_file_that_was_being_written(error, line):
    with pytest.raises(type(error)) as caught, about("data/x"):
        raise error
    assert faults.line(caught.value, "clean").startswith(line)


def test_the_file_is_named_as_the_user_knows_it(tmp_path):
    with pytest.raises(OSError) as caught, replacing(tmp_path / "folder") as folder:
        folder.mkdir()
        with replacing(folder / "file.json"):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
    assert faults.line(caught.value, None).startswith(f"{tmp_path}/folder/file.json: the disk quota is used up")
    with pytest.raises(OSError) as caught, replacing(tmp_path / "folder") as folder:
        (folder / "a" / "b.json").write_text("")
    assert faults.line(caught.value, None).startswith(f"{tmp_path}/folder/a/b.json: it does not exist")


def test_a_file_where_a_folder_belongs_is_one_line(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(OSError) as caught:
        write_json(tmp_path / "data" / "x.json", {})
    assert faults.line(caught.value, None).startswith(f"{tmp_path}/data")


def too_large_arrow() -> None:
    pa.allocate_buffer(1 << 60)


@pytest.mark.parametrize(
    "fail",
    [lambda: torch.empty(1 << 60), lambda: np.empty(1 << 55), too_large_arrow, lambda: bytes(1 << 60)],
    ids=["torch", "numpy", "arrow", "python"],
)
def test_a_lack_of_memory_names_the_stage_what_it_held_and_what_lowers_it(fail):
    with pytest.raises(Exception) as caught:
        fail()
    line = faults.line(caught.value, "train")
    assert line.startswith("train ran out of memory: the process held ")
    assert " MB at most" in line
    assert (
        "; lower launch.micro_batch, launch.tokens, launch.generate_batch, set launch.recompute to true, or use" in line
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError("Unknown error: Failed to launch worker thread: Resource temporarily unavailable"),
        SystemError("error return without exception set"),
    ],
)
def test_a_lack_of_memory_is_known_whatever_a_library_calls_it(error):
    assert faults.line(error, "download").startswith("download ran out of memory: the process held ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4321",
            "another process of this run has ended, or its machine cannot be reached ([../third_party/gloo/gloo/"
            "transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4321); see what it said, then run the "
            "same command again",
        ),
        (
            "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 60000ms for recv",
            "another process of this run did not answer in time; see whether it still runs, or raise "
            "launch.wait_minutes, then run the same command again",
        ),
    ],
)
def test_a_process_that_others_wait_for_in_vain_is_one_line(text, line):
    assert faults.lost(RuntimeError(text))
    assert faults.line(RuntimeError(text), "train") == line
    assert faults.lost(torch.distributed.DistBackendError("NCCL communicator was aborted on rank 0"))
    assert not faults.lost(RuntimeError("shapes do not fit"))


def test_every_parameter_that_is_to_be_lowered_exists():
    sections = {"launch": Launch, "clean": Clean, "value": Value, "judge": Judge}
    sections |= {"rewards.<component>": Classifier, "rewards.<component>.train": Training}
    for name in ["launch.recompute", *itertools.chain.from_iterable(faults.LESS.values())]:
        section, _, key = name.rpartition(".")
        assert key in {field.name for field in dataclasses.fields(sections[section])}, name


BUG = KeyError("name")
FULL_DISK = OSError(errno.ENOSPC, "No space left on device")
INPUT = InputError("the input is wrong")


@pytest.mark.parametrize(
    ("error", "culprit"),
    [
        (BUG, None),
        (ValueError("bad"), None),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), None),
        (OSError(errno.EBADF, "Bad file descriptor"), None),
        (INPUT, INPUT),
        (failed(OSError(errno.EIO, "x"), context=INPUT), INPUT),
        (failed(ValueError("I/O operation on closed file"), context=FULL_DISK), FULL_DISK),
        (failed(RuntimeError("worker"), cause=FULL_DISK), FULL_DISK),
        (failed(SystemExit(143), context=FULL_DISK), None),
        (failed(TypeError("a bug while an error was handled"), context=FULL_DISK), None),
        (failed(TypeError("said on purpose"), cause=FULL_DISK), FULL_DISK),
    ],
)
def test_what_explains_an_error(error, culprit):
    assert faults.culprit(error) is culprit


def test_a_circle_of_causes_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert faults.culprit(first) is None


def test_reading_passes_what_is_no_damage():
    def mistake(why: str) -> InputError:
        return InputError(f"x: {why}")

    for error in (MemoryError(), PermissionError(errno.EACCES, "x"), INPUT, KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, faults.reading(mistake):
            raise error
        assert caught.value is error
    announced = RuntimeError("Error(s) in loading:\n\tsize mismatch")
    for error, why in ((announced, "Error(s) in loading: size mismatch"), (FileNotFoundError(2, "none"), "none")):
        with pytest.raises(InputError, match=r"^x: ") as caught, faults.reading(mistake):
            raise error
        assert why in str(caught.value)
