"""What every stage's command shares: its options, one-line errors, and its time and memory in metrics/cost/."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

from alol.base import faults, machine, memory
from alol.base.errors import InputError, ParameterError, SharedError
from alol.base.files import write_json
from alol.base.work import Work, claimed, digest
from alol.config import model_names, params, paths, places
from stages import _processes

Inputs = Callable[[params.Params], Iterable[Path]]
ROOT = Path(__file__).parents[1]
CODE = (ROOT / "alol", ROOT / "stages", Path("custom"))
OURS = ("alol.", "stages.", "custom.")  # loggers
ELSEWHERE = {"launch", "source", "clean", "aggregate"}  # on which no unfinished work depends, but for its inputs
WORK = "ALOL_WORK"  # environment variable of a process that a stage started: the folder of its unfinished work
TOKEN = "ALOL_TOKEN"  # likewise: what stands in that folder, if it is the same one on every machine


def command(
    name: str,
    *,
    algorithm: bool = False,
    distributed: bool = False,
    rows: bool = False,
    inputs: Inputs | None = None,
) -> Callable[[Callable[..., None]], click.Command]:
    """Turns `main(params)` into the click command of stage `name`; the algorithm is an option where it matters.

    A `distributed` stage runs in as many processes as $ALOL_LAUNCHER starts, or else `launch.processes` says, of which
    the first one writes; it gets its Accelerator by `launch.accelerator(params.launch, work)`. So does one over `rows`,
    unless `launch.cluster` is set: then one process deals its rows out to that cluster. A stage
    with `inputs`, what its result depends on beside the parameters, is called as `main(params, work)` and goes on from
    the work of a run that was killed.
    """

    def wrap(main: Callable[..., None]) -> click.Command:
        def run(task: str, algorithm: str | None = None) -> None:
            speak()
            start = time.monotonic()
            with mistakes(task), contextlib.ExitStack() as stack:
                _processes.join()
                _processes.end_with_parent()
                rank = _processes.rank()
                if not distributed and not rows:
                    _processes.alone(f"stage {name}")
                loaded = params.load(task, algorithm)
                several = distributed or rows
                if rows and loaded.launch.cluster is not None:
                    _processes.alone(f"with launch.cluster, stage {name}")
                    several = False
                work = stack.enter_context(_work(name, loaded, algorithm, inputs, rank)) if inputs is not None else None
                more, files = ({WORK: str(work.folder), TOKEN: work.token}, [work.file]) if work else ({}, [])
                options = ["--task", task, *(["--algorithm", algorithm] if algorithm else [])]
                if several and (code := _processes.relaunch(name, options, loaded.launch, more, files)) is not None:
                    if code:
                        raise SystemExit(code)
                    return
                main(loaded, work) if work is not None else main(loaded)
                if rank == 0:
                    spent = work.seconds() if work is not None else None
                    write_json(paths.cost(name), cost(time.monotonic() - start, spent))
                    if work is not None:  # it runs models: a list, which DVC's tables leave out
                        write_json(paths.launch(name), [machine.used(dataclasses.asdict(loaded.launch))])

        run = click.option("--task", required=True, help="A file of tasks/, without .yaml.")(run)
        if algorithm:
            run = click.option("--algorithm", required=True, help="An entry of `algorithms` in params.yaml.")(run)
        return click.command(name=name, help=main.__doc__)(run)

    return wrap


def _work(
    name: str, loaded: params.Params, algorithm: str | None, inputs: Inputs, rank: int
) -> contextlib.AbstractContextManager[Work]:
    """The unfinished work of a stage; of several processes, the first one (or the one above them) owns it."""
    minutes = loaded.launch.checkpoint_minutes
    if folder := os.environ.get(WORK):
        return contextlib.nullcontext(Work(Path(folder), minutes, token=os.environ.get(TOKEN, "")))
    left_out = ELSEWHERE if algorithm else {*ELSEWHERE, "algorithm", "hyperparameters", "seed", "train"}
    settings = params.plain({key: value for key, value in vars(loaded).items() if key not in left_out})
    root, key = paths.work("stages"), digest(name, settings, inputs(loaded), CODE, model_names.named(settings))
    if rank:
        return contextlib.nullcontext(Work(root / name / key, minutes))
    return claimed(root, name, key, minutes)


def speak(level: int = logging.INFO) -> None:
    """Shows what this project logs, in plain lines, and of libraries nothing but errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(lambda record: record.name.startswith(OURS) or record.levelno >= logging.ERROR)
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler], force=True)


@contextlib.contextmanager
def mistakes(task: str | None = None) -> Iterator[None]:
    """Ends the command with one line where the user's input, the disk or memory is at fault; bugs pass.

    A parameter of `task` is named with its file.
    """
    try:
        with _processes.ended_by_signals():
            yield
    except BaseException as error:  # of libraries written in Rust too
        found = faults.culprit(error)
        if found is None:
            raise
        if isinstance(found, KeyboardInterrupt):
            click.echo("Error: interrupted", err=True)
            raise SystemExit(130) from None
        if not _first() or faults.lost(found):
            time.sleep(_processes.PAUSE)  # a mistake that all meet is said by the first, and what is lost by who ended
            if isinstance(found, SharedError) and not _first():
                raise SystemExit(1) from None
            click.echo(err=True)  # the first one's progress bar stands in the middle of a line
        if task and isinstance(found, ParameterError):
            error = places.located(found, task, advise=True)
        raise click.ClickException(faults.line(error, click.get_current_context().command.name)) from None


def _first() -> bool:
    """Whether this process is the one of several that writes and speaks."""
    try:
        return _processes.rank() == 0
    except InputError:  # which every process says
        return True


def cost(seconds: float, writing: float | None = None) -> dict[str, float]:
    """Wall time and peak memory of this process (and of the accelerator, when one was used).

    `writing`: how much of the time it took to write unfinished work.
    """
    result = {"seconds": round(seconds, 2), "peak_memory_mb": round(memory.peak(), 1)}
    if writing is not None:
        result["checkpoint_seconds"] = round(writing, 2)
    if (accelerator := memory.accelerator_peak()) is not None:
        result["peak_accelerator_memory_mb"] = round(accelerator, 1)
    return result
