"""Compares every run of a task that DVC knows (workspace, commits, experiments) and every evaluated checkpoint.

Not a stage of the pipeline: it reads what runs left behind and changes nothing but reports/.
"""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import click

from alol.base.errors import InputError
from alol.base.files import read_json, replacing
from alol.config import params, paths
from alol.evaluation import comparison, experiments, figures, published_columns
from alol.evaluation.report import write_csv
from alol.evaluation.summary import align


@click.command(name="compare")
@click.option("--task", help="Entries of `tasks` in params.yaml, with commas between; by default the file's `task`.")
def main(task: str | None) -> None:
    """Put every experiment and commit of a task into one table and one figure, in reports/."""
    logging.basicConfig(level=logging.WARNING, force=True)
    try:
        raw = params.read()
        names = [name.strip() for name in (task or raw["task"]).split(",")]
        for name in names:
            if name not in raw["tasks"]:
                raise params.known("task", name, raw["tasks"])
        rows = dvc_rows()
        stale = {experiments.name(row): reason for row in rows if (reason := staleness(row, set(raw)))}
        groups = {name: report(name, rows, set(raw), stale) for name in dict.fromkeys(names)}
        if len(groups) > 1:
            together(groups)
    except InputError as error:
        raise click.ClickException(str(error)) from None


def dvc_rows() -> list[dict[str, Any]]:
    """DVC's table of the workspace, of every commit on a branch, and of the experiments that start from these."""
    import dvc.api
    from dvc.exceptions import DvcException

    branches = git("for-each-ref", "--format=%(refname:short)", "refs/heads")
    try:
        return dvc.api.exp_show(revs=["HEAD", *branches.splitlines()] if branches else None, num=-1)
    except DvcException as error:
        raise InputError(f"DVC cannot list experiments here ({error}); run from a Git repository with DVC") from None


def git(*arguments: str) -> str | None:
    """A Git command's output; None when it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def staleness(row: dict[str, Any], sections: set[str]) -> str | None:
    """Why a row's metrics are not those of parameters as they are read today; None when they are.

    Told by the dvc.lock beside them, and by whether this version of the project takes its params.yaml.
    """
    if row["rev"] == "workspace":
        lock = Path("dvc.lock").read_text(encoding="utf-8") if Path("dvc.lock").exists() else None
    elif not readable(git("show", f"{row['rev']}:./{params.PARAMS}") or ""):
        return f"{params.PARAMS} is of another version of the project, with other keys"
    else:
        lock = git("show", f"{row['rev']}:./dvc.lock")
    return experiments.stale(experiments.plain(row), lock, sections) if lock else None


@cache
def readable(text: str) -> bool:
    """Whether params.load takes a params.yaml of this content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / params.PARAMS
        path.write_text(text, encoding="utf-8")
        try:
            params.load(path=path)
        except InputError:
            return False
    return True


def report(task: str, rows: list[dict[str, Any]], sections: set[str], stale: dict[str, str]) -> list[experiments.Group]:
    """Write the files of one task and say what is in them."""
    runs, left_out = experiments.collect(rows, task, sections, stale)
    for reason in sorted({reason for _, reason in left_out}):
        click.echo(f"left out, {reason}: {', '.join(name for name, same in left_out if same == reason)}")
    others = [
        experiments.checkpoint(path.parent.name, read_json(path))
        for path in sorted(paths.checkpoints(task).glob("*/summary.json"))
    ]
    if not runs and not others:
        raise InputError(f"no finished run of task '{task}' among DVC's {len(rows)}; make one with `dvc exp run`")
    groups = experiments.ranked([*experiments.group(runs), *others])
    base = paths.REPORTS / f"compare_{task}"
    published = paths.REPORTS / f"results_{task}.csv"
    if runs:
        found = published_columns.table(runs, task)
        write_csv(published, found, list(found[0]))
    write_csv(base.with_suffix(".csv"), comparison.csv_rows(groups), ())
    with replacing(base.with_suffix(".md")) as partial:
        partial.write_text(comparison.markdown(groups, task, len(left_out)), encoding="utf-8")
    with replacing(base.with_suffix(".png")) as partial:
        partial.write_bytes(figures.comparison(comparison.lines(groups), f"{task}: reward by run"))
    click.echo(comparison.terminal_table(groups))
    checkpoints = f" and {len(others)} evaluated checkpoints" if others else ""
    click.echo(f"{len(runs)} runs{checkpoints} in {len(groups)} groups: {base}.md, .csv and .png; {published}")
    return groups


def together(groups: dict[str, list[experiments.Group]]) -> None:
    """Write one table and one figure over several tasks."""
    rows = comparison.across(groups)
    base = paths.REPORTS / f"compare_{'_'.join(groups)}"
    write_csv(base.with_suffix(".csv"), rows, list(rows[0]))
    cells = comparison.across_cells(rows, "±")
    with replacing(base.with_suffix(".md")) as partial:
        partial.write_text(
            f"# {', '.join(groups)}\n\n{comparison.table(cells)}\n\n![Mean reward by task]({base.name}.png)\n", "utf-8"
        )
    lines = [
        dataclasses.replace(line, label=f"{task}: {line.label}")
        for task, found in groups.items()
        for line in comparison.lines(found)
    ]
    with replacing(base.with_suffix(".png")) as partial:
        partial.write_bytes(figures.comparison(lines, "reward by task and run"))
    click.echo(align(comparison.across_cells(rows, "+-"), left=1))
    click.echo(f"{len(rows)} rows over {len(groups)} tasks: {base}.md, .csv and .png")


if __name__ == "__main__":
    main()
