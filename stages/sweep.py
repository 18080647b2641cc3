"""Trains and evaluates a table of runs, and goes on after a kill. Not a stage of the pipeline.

python -m stages.sweep --task chitchat --algorithms nll,wbc,a_lol --seeds 1,2,3
"""

from __future__ import annotations

from pathlib import Path

import click

from alol.base.errors import InputError
from alol.sweeps import running, tables
from stages._cli import mistakes


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _seeds(text: str | None) -> list[int] | None:
    names = _names(text)
    if names is not None and not all(name.isdecimal() for name in names):
        raise InputError(f"--seeds {text}: write whole numbers with commas between them")
    return None if names is None else [int(name) for name in names]


@click.command(name="sweep")
@click.argument("table", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--task", help="Files of tasks/, with commas between; by default the `task` of params.yaml.")
@click.option("--algorithms", help="With commas between; by default the `algorithm` of params.yaml.")
@click.option("--seeds", help="With commas between; by default the `seed` of params.yaml.")
@click.option(
    "--set", "settings", multiple=True, help="KEY=VALUE[,VALUE...], or FILE:KEY=...; several: all combinations."
)
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1), help="Runs at once.")
@click.option("--commit", is_flag=True, help="Commit each result to Git as soon as it is there, and nothing else.")
@click.option("--list", "only_list", is_flag=True, help="Say which runs there are and which are done; run none.")
def main(
    table: Path | None,
    task: str | None,
    algorithms: str | None,
    seeds: str | None,
    settings: tuple[str, ...],
    jobs: int,
    commit: bool,
    only_list: bool,
) -> None:
    """Run all combinations of tasks, algorithms, seeds and settings, or those of a YAML file TABLE.

    Each leaves results/<task>/<algorithm>-<seed>-<settings>.json. Runs that have left it are not run again.
    """
    with mistakes():
        columns = {"tasks": _names(task), "algorithms": _names(algorithms), "seeds": _seeds(seeds)}
        columns["settings"] = list(tables.alternatives(settings)) if settings else None
        given = {key: values for key, values in columns.items() if values is not None}
        # what the command line says holds for all tables of the file
        found = [{**one, **given} for one in (tables.read(table) if table else [{}])]
        sweep = running.Sweep(tables.planned(found), Path.cwd(), jobs=jobs, commit=commit, say=_say)
        _say(f"{len(sweep.runs)} runs, {len(sweep.runs) - len(sweep.left)} of them done")
        if only_list:
            for run in sweep.runs:
                _say(f"{'to do' if run in sweep.left else 'done '} {run.label}: {run.path}")
            return
        failed = sweep.run()
        if failed:
            raise InputError(f"{len(failed)} of {len(sweep.runs)} runs failed: {'; '.join(failed)}")
        _say("all are done; compare them: python -m stages.compare")


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
