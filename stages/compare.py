"""Compares every run of a task that DVC knows (workspace, commits, experiments), that lies in results/ as a file of a
sweep, and every evaluated checkpoint.

Not a stage of the pipeline: it reads what runs left behind and changes nothing but reports/.
"""

from __future__ import annotations

import dataclasses
import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from alol.base.errors import InputError
from alol.base.files import read_json, replacing
from alol.config import params, paths
from alol.evaluation import comparison, experiments, figures, published_columns, results, revisions, summary
from alol.evaluation.report import write_csv
from stages._cli import mistakes, speak


@click.command(name="compare")
@click.option("--task", help="Files of tasks/, with commas between; by default the `task` of params.yaml.")
@click.option("--against", multiple=True, help="A run of the table; all others are compared with it prompt by prompt.")
def main(task: str | None, against: tuple[str, ...]) -> None:
    """Put every experiment, commit and result file of a task into tables and figures, in reports/."""
    speak(logging.WARNING)
    with mistakes(task):
        names = [name.strip() for name in (params.load().task if task is None else task).split(",")]
        for name in names:
            params.load(name)
        rows = dvc_rows()
        groups = {name: report(name, rows, against) for name in dict.fromkeys(names)}
        if len(groups) > 1:
            together(groups)


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


def read(rows: list[dict[str, Any]], task: str) -> dict[str, revisions.Revision | str]:
    """The `rev` of each row -> its parameters, or why its metrics count for nothing."""
    files = [*revisions.files_of(task), "dvc.lock"]
    revs = dict.fromkeys(str(row["rev"]) for row in rows)
    committed = [rev for rev in revs if rev != "workspace"]
    contents = blobs([f"{rev}:./{file}" for rev in committed for file in files])
    found: dict[str, revisions.Revision | str] = {}
    for rev in revs:
        if rev == "workspace":
            of = {file: Path(file).read_bytes() for file in files if Path(file).exists()}
        else:
            of = {file: contents[f"{rev}:./{file}"] for file in files}
        revision = revisions.revision(of, task)
        lock = of.get("dvc.lock")
        stale = revisions.stale(revision, lock) if lock and not isinstance(revision, str) else None
        if lock and not isinstance(revision, str):
            revision = dataclasses.replace(revision, basis=revisions.basis(lock, revision.params))
        found[rev] = stale or revision
    return found


def blobs(names: list[str]) -> dict[str, bytes | None]:
    """What Git's objects of these names (`<rev>:./<file>`) hold, None where there is none; one process for all."""
    asked = "".join(f"{name}\n" for name in names).encode()
    done = subprocess.run(["git", "cat-file", "--batch"], input=asked, capture_output=True, check=False)
    found: dict[str, bytes | None] = dict.fromkeys(names)
    rest = done.stdout
    for name in names:
        header, _, rest = rest.partition(b"\n")
        fields = header.split()
        if len(fields) == 3 and fields[1] == b"blob":
            size = int(fields[2])
            found[name], rest = rest[:size], rest[size + 1 :]
    return found


def report(task: str, rows: list[dict[str, Any]], against: Sequence[str] = ()) -> list[experiments.Group]:
    """Write the files of one task and say what is in them."""
    of_dvc, left_out = experiments.collect(rows, task, read(rows, task))
    of_files, unread = results.runs(task)
    runs, repeated = experiments.together(of_dvc, of_files)
    left_out += [*unread, *repeated]
    for reason in sorted({reason for _, reason in left_out}):
        click.echo(f"left out, {reason}: {', '.join(name for name, same in left_out if same == reason)}")
    others = [
        experiments.checkpoint(path.parent.name, read_json(path, summary.Splits))
        for path in sorted(paths.checkpoints(task).glob("*/summary.json"))
    ]
    if not runs and not others:
        raise InputError(
            f"no finished run of task '{task}' among DVC's {len(rows)} and in {paths.results(task)}; make one with "
            "`dvc exp run` or `python -m stages.sweep`"
        )
    base = paths.REPORTS / f"compare_{task}"
    sections = comparison.with_pairs(comparison.sections(runs, others), against, params.load(task).aggregate)
    groups = [group for one in sections for group in one.groups]
    published = paths.REPORTS / f"results_{task}.csv"
    if runs:
        found = published_columns.table(runs, task)
        write_csv(published, found, list(found[0]))
    write_csv(base.with_suffix(".csv"), comparison.csv_rows(groups), ())
    with replacing(base.with_suffix(".md")) as partial:
        partial.write_text(comparison.markdown(sections, task, len(left_out)), encoding="utf-8")
    for one in sections:
        if len(sections) > 1:
            click.echo(f"{one.title}:")
        click.echo(comparison.terminal_table(one.groups))
        if one.pairs:
            click.echo(f"{comparison.BY_PROMPT}\n{summary.align(one.pairs, left=1)}")
        draw(one, task)
    if len(sections) > 1:
        click.echo(comparison.APART)
    checkpoints = f" and {len(others)} evaluated checkpoints" if others else ""
    click.echo(f"{len(runs)} runs{checkpoints} in {len(groups)} groups: {base}.md, .csv and .png; {published}")
    return groups


def draw(section: comparison.Section, task: str) -> None:
    """The figures of runs that may be compared: rewards, and rewards against the distance from the reference."""
    with replacing(paths.REPORTS / f"compare_{task}{section.suffix}.png") as partial:
        partial.write_bytes(
            figures.comparison(comparison.lines(section.groups), f"{task}: reward by run{section.note}")
        )
    if points := comparison.frontier(section.groups):
        with replacing(paths.REPORTS / f"frontier_{task}{section.suffix}.png") as partial:
            reference = comparison.reference(section.groups)
            title = f"{task}: reward and distance{section.note}"
            partial.write_bytes(figures.frontier(points, reference, title))


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
    click.echo(summary.align(comparison.across_cells(rows, "+-"), left=1))
    click.echo(f"{len(rows)} rows over {len(groups)} tasks: {base}.md, .csv and .png")


if __name__ == "__main__":
    main()
