"""What every stage's command shares: its options, one-line errors, and its time and memory in metrics/cost/."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import click

from alol.base import machine, memory
from alol.base.errors import InputError, ParameterError
from alol.base.files import write_json
from alol.config import params, paths, places, sections

MODELS = (  # stages that run models: an output of each says with which `launch` it was made
    "reward_model", "annotate", "reference", "rollout", "baseline", "value", "advantage", "train", "evaluate",
)  # fmt: skip


def command(
    name: str, *, algorithm: bool = False, distributed: bool = False
) -> Callable[[Callable[[params.Params], None]], click.Command]:
    """Turns `main(params)` into the click command of stage `name`; the algorithm is an option where it matters.

    A `distributed` stage runs in as many processes as `launch.processes` says, of which the first one writes.
    """

    def wrap(main: Callable[[params.Params], None]) -> click.Command:
        def run(task: str, algorithm: str | None = None) -> None:
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
            start = time.monotonic()
            with mistakes(task):
                loaded = params.load(task, algorithm)
                if distributed and (code := _relaunch(name, loaded.launch)) is not None:
                    raise SystemExit(code)
                main(loaded)
            if _first():
                write_json(paths.cost(name), cost(time.monotonic() - start))
                if name in MODELS:  # a list, which DVC's tables leave out
                    write_json(paths.launch(name), [machine.used(dataclasses.asdict(loaded.launch))])

        run = click.option("--task", required=True, help="A file of tasks/, without .yaml.")(run)
        if algorithm:
            run = click.option("--algorithm", required=True, help="An entry of `algorithms` in params.yaml.")(run)
        return click.command(name=name, help=main.__doc__)(run)

    return wrap


@contextlib.contextmanager
def mistakes(task: str | None = None) -> Iterator[None]:
    """Ends the command with one line where the user's input is wrong, with the file of a parameter of `task`."""
    try:
        yield
    except InputError as error:
        if not _first():
            raise SystemExit(1) from None
        if task and isinstance(error, ParameterError):
            error = places.located(error, task, advise=True)
        raise click.ClickException(str(error)) from None


def _first() -> bool:
    """Whether this process is the one of several that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def _relaunch(name: str, launch: sections.Launch) -> int | None:
    """Runs the stage again in `launch.processes` processes of this machine, which accelerate finds by the environment.

    Returns their exit code; None when this process should go on itself: one is enough, or it is already one of several.
    Not torchrun, which answers a user's mistake, one line of which the first process prints, with a traceback.
    """
    if launch.processes == 1 or "WORLD_SIZE" in os.environ:
        return None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = str(launch.processes)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    shared["ACCELERATE_USE_CPU"] = str(launch.device == "cpu").lower()
    shared["OMP_NUM_THREADS"] = os.environ.get(
        "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // launch.processes))
    )
    command = [sys.executable, "-m", f"stages.{name}", *sys.argv[1:]]
    ranks = [{"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(launch.processes)]
    return _wait([subprocess.Popen(command, env={**os.environ, **shared, **rank}) for rank in ranks])


def _wait(processes: list[subprocess.Popen]) -> int:
    """The first exit code that is not 0; the other processes are then ended, since they would wait for ever."""
    try:
        while None in (codes := [process.poll() for process in processes]) and not any(codes):
            time.sleep(0.1)
        return next((1 if code < 0 else code for code in codes if code), 0)
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def cost(seconds: float) -> dict[str, float]:
    """Wall time and peak memory of this process (and of the accelerator, when one was used)."""
    result = {"seconds": round(seconds, 2), "peak_memory_mb": round(memory.peak(), 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        result["peak_accelerator_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return result
