"""Before a run: mistakes in params.yaml and a task's file, one line each, within seconds. Not a stage of the pipeline.

python -m stages.check --task answers
"""

from __future__ import annotations

import os
import shlex

import click

from alol.base.errors import InputError
from alol.checks import additions, memory, parameters, policy_shape
from alol.config import params
from stages import _launcher
from stages._cli import mistakes, speak


@click.command(name="check")
@click.option("--task", help="A file of tasks/, without .yaml; by default the `task` of params.yaml.")
@click.option(
    "--all", "every", is_flag=True, help="Every task; sources that are not on this machine are warnings then."
)
@click.option("--memory", "how_much", is_flag=True, help="What each stage will need of memory, at most.")
@click.option(
    "--gib", type=click.FloatRange(0, min_open=True), help="With --memory: what there is; which keys of launch fit it."
)
@click.option("--gpu", is_flag=True, help="With --memory: as on a GPU, on whatever machine this is asked.")
@mistakes()
def main(task: str | None, every: bool, how_much: bool, gib: float | None, gpu: bool) -> None:
    """Check names, ranges, sources and reward functions of a task, or of all."""
    if (gib is not None or gpu) and not how_much:
        raise click.UsageError(f"{'--gpu' if gpu else '--gib'} needs --memory")
    if every and task is not None:
        raise click.UsageError("--all and --task exclude each other")
    problems, lacking = [*parameters.problems(task), *_launching()], additions.missing()
    warnings = list(lacking)
    if every:
        of_all, absent = parameters.every_task()
        warnings += absent
        problems = list(dict.fromkeys([*problems, *of_all, *parameters.misnamed()]))
    if files := parameters.untracked():
        warnings.append(
            f"Git does not track {', '.join(files)}, so queued and temporary experiments, which run in copies of the "
            f"checkout, lack what is in there; run `git add {shlex.join(files)}`"
        )
    for line in warnings:
        click.echo(f"Warning: {line}", err=True)
    for line in problems:
        click.echo(f"Error: {line}", err=True)
    if problems:
        raise SystemExit(1)
    also = f"; what is added to the project lacks {len(lacking)} entries, see above" if lacking else ""
    click.echo(summary(task, every) + also)
    if how_much:
        click.echo(needed(params.load(task), gib, gpu))


def _launching() -> list[str]:
    """What is wrong with $ALOL_LAUNCHER."""
    if (launcher := os.environ.get(_launcher.LAUNCHER)) is None:
        return []
    try:
        _launcher.words(launcher)
    except InputError as error:
        return [str(error)]
    return []


def summary(task: str | None, every: bool) -> str:
    """What was found to be fine."""
    loaded = params.load(task)
    run = f"task {loaded.task}, algorithm {loaded.algorithm}, seed {loaded.seed}"
    about = f"params.yaml and tasks/{loaded.task}.yaml are fine: {run}"
    return f"{about}; and so is every file of tasks/" if every else about


def needed(loaded: params.Params, gib: float | None, gpu: bool = False) -> str:
    """The table of memory, and whether it is there."""
    import torch

    speak()
    accelerator = gpu or (loaded.launch.device == "auto" and torch.cuda.is_available())
    shape = policy_shape.shape_of(loaded, accelerator=accelerator)
    found = memory.needs(loaded, shape, accelerator=accelerator)
    most = max(found, key=lambda need: need.total)
    lines = [memory.table(found), f"{most.stage} needs the most: {most.total / memory.GIB:.2f} GiB in each process"]
    if shape.absent:
        lines.append(f"Not counted, for they are not on this machine: {', '.join(shape.absent)}")
    if gib is not None:
        keys = memory.fitting(loaded, shape, gib * memory.GIB, accelerator=accelerator)
        if keys is None:
            lines.append(
                f"That is more than {gib:g} GiB, whatever `launch` says: take a smaller model, qlora, or bf16 rewards"
            )
        elif keys:
            named = ", ".join(f"launch.{key}={str(value).lower()}" for key, value in keys.items())
            lines.append(f"That is more than {gib:g} GiB; it fits with {named}")
        else:
            lines.append(f"All of it fits into {gib:g} GiB")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
