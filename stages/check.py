"""Before a run: mistakes in params.yaml and a task's file, one line each, within seconds. Not a stage of the pipeline.

python -m stages.check --task answers
"""

from __future__ import annotations

import shlex

import click

from alol.checks import additions, parameters
from alol.config import params
from stages._cli import mistakes


@click.command(name="check")
@click.option("--task", help="A file of tasks/, without .yaml; by default the `task` of params.yaml.")
@click.option(
    "--all", "every", is_flag=True, help="Every task; sources that are not on this machine are warnings then."
)
@mistakes()
def main(task: str | None, every: bool) -> None:
    """Check names, ranges, sources and reward functions of a task, or of all."""
    if every and task is not None:
        raise click.UsageError("--all and --task exclude each other")
    problems, lacking = parameters.problems(task), additions.missing()
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


def summary(task: str | None, every: bool) -> str:
    """What was found to be fine."""
    loaded = params.load(task)
    run = f"task {loaded.task}, algorithm {loaded.algorithm}, seed {loaded.seed}"
    about = f"params.yaml and tasks/{loaded.task}.yaml are fine: {run}"
    return f"{about}; and so is every file of tasks/" if every else about


if __name__ == "__main__":
    main()
