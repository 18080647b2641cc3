"""Compares every run of a task: of the workspace, commits and experiments that Git and DVC know, of a sweep's files in
results/, and every evaluated checkpoint.

Not a stage of the pipeline: it reads what runs left behind and changes nothing but reports/.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import click

from alol.base.errors import InputError
from alol.base.files import read_json, replacing
from alol.base.text import align
from alol.config import params, paths
from alol.evaluation import (
    by_setting,
    chosen,
    comparison,
    comparison_figures,
    comparison_points,
    costs,
    experiments,
    foretold,
    known_runs,
    paired,
    published_columns,
    results,
    summary,
)
from alol.evaluation.csv_files import write_csv
from stages._cli import mistakes, speak

REWARD = "reward"


@click.command(name="compare")
@click.option("--task", help="Files of tasks/, with commas between; by default the `task` of params.yaml.")
@click.option("--against", multiple=True, help="A run of the table; all others are compared with it prompt by prompt.")
@click.option("--by", "setting", help="A setting, by the end of its key: gains over the reference at each value of it.")
@click.option(
    "--only",
    multiple=True,
    help="KEY=VALUE[,...], or reference=DIGEST, test=DIGEST of a heading: only runs that have it; several: all.",
)
@click.option("--metric", default=REWARD, show_default=True, help="What --by shows the gain of.")
@click.option("--left-out", "listed", is_flag=True, help="List what is in no table, each with its reason.")
def main(
    task: str | None, against: tuple[str, ...], setting: str | None, only: tuple[str, ...], metric: str, listed: bool
) -> None:
    """Put every experiment, commit and result file of a task into tables and figures, in reports/."""
    speak(logging.WARNING)
    with mistakes(task):
        names = [name.strip() for name in (params.load().task if task is None else task).split(",")]
        for name in names:
            params.load(name)
        if setting is None and metric != REWARD:
            raise InputError("--metric says what --by shows the gain of; name a setting with --by")
        if setting is not None:
            if against or listed:
                raise InputError("--by shows runs by one setting; leave --against and --left-out out")
            for name in dict.fromkeys(names):
                by(name, setting, only, metric)
            return
        sections = {name: report(name, against, only, listed) for name in dict.fromkeys(names)}
        if len(sections) > 1:
            together(sections)


def report(task: str, against: Sequence[str], only: Sequence[str], listed: bool) -> list[comparison.Section]:
    """Write the files of one task and say what is in them."""
    of_git, left_out = known_runs.runs(task)
    of_files, unread = results.runs(task)
    runs, repeated = experiments.together(of_git, of_files)
    left_out += [*unread, *repeated]
    asked = chosen.only(runs, only)
    left_out += [experiments.LeftOut(run.name, "not asked for", "--only") for run in runs if run not in asked]
    runs = asked
    for one in left_out if listed else ():
        click.echo(f"left out: {one.name}: {one.reason}")
    others = [
        experiments.checkpoint(path.parent.name, read_json(path, summary.Splits))
        for path in sorted(paths.checkpoints(task).glob("*/summary.json"))
    ]
    if not runs and not others:
        raise InputError(
            f"no finished run of task '{task}' among Git's commits and DVC's experiments, nor in {paths.results(task)} "
            f"({comparison.counts(left_out)}); make one with `dvc exp run` or `python -m stages.sweep`"
        )
    base = paths.REPORTS / f"compare_{task}"
    sections = comparison.with_pairs(comparison.sections(runs, others), against, params.load(task).aggregate)
    groups = [group for one in sections for group in one.groups]
    published = paths.REPORTS / f"results_{task}.csv"
    if runs:
        found = published_columns.table(runs, task)
        write_csv(published, found, list(found[0]))
    write_csv(base.with_suffix(".csv"), comparison.csv_rows(groups), ())
    if compared := comparison.pair_rows(sections):
        write_csv(paths.REPORTS / f"pairs_{task}.csv", compared, list(compared[0]))
    with replacing(base.with_suffix(".md")) as partial:
        partial.write_text(comparison.markdown(sections, task, left_out), encoding="utf-8")
    for one in sections:
        click.echo(f"{one.title}:")
        click.echo(comparison.terminal_table(one.groups))
        if one.pairs:
            click.echo(f"{comparison.BY_PROMPT}\n{align(one.pairs, left=1)}")
        if one.compared:
            click.echo(f"{comparison.EVERY_PAIR}:\n{align(paired.tally(one.compared), left=1)}")
        if known := one.foretold:
            click.echo(f"{comparison.FORETOLD}:\n{align(foretold.cells(known), left=1)}")
        if took := costs.table(one.groups):
            click.echo(f"{comparison.COSTS}:\n{align(costs.cells(took), left=1)}")
        draw(one, task)
    if len(sections) > 1:
        click.echo(comparison.APART)
    click.echo(comparison.counts(left_out) + (" --left-out lists them." if left_out and not listed else ""))
    checkpoints = f" and {len(others)} evaluated checkpoints" if others else ""
    click.echo(f"{len(runs)} runs{checkpoints} in {len(groups)} groups: {base}.md, .csv and .png; {published}")
    return sections


def by(task: str, name: str, only: Sequence[str], metric: str) -> None:
    """Write and show how a task's runs depend on one setting."""
    runs = chosen.only(experiments.together(known_runs.runs(task)[0], results.runs(task)[0])[0], only)
    setting = chosen.key(runs, name)
    found = by_setting.gains(runs, setting, metric)
    base, title = f"by_{name}_{metric}_{task}", f"{task}: gain over the reference by {name}"
    with replacing(paths.REPORTS / f"{base}.png") as partial:
        partial.write_bytes(comparison_figures.by_setting(found, by_setting.values(found), metric, setting, title))
    with replacing(paths.REPORTS / f"{base}.md") as partial:
        text = f"{comparison.table(by_setting.cells(found, '±'))}\n\n![{title}]({base}.png)"
        partial.write_text(f"# {title} ({metric})\n\n{text}\n", "utf-8")
    click.echo(f"Gain in {metric} over the reference, by {setting}:")
    click.echo(align(by_setting.cells(found, "+-"), left=1))
    click.echo(f"{paths.REPORTS / base}.md and .png")


def draw(section: comparison.Section, task: str) -> None:
    """The figures of runs that may be compared: rewards, and rewards against the distance from the reference."""
    with replacing(paths.REPORTS / f"compare_{task}{section.suffix}.png") as partial:
        panel = comparison_points.panel(section.groups, f"{task}: reward by run{section.note}")
        partial.write_bytes(comparison_figures.comparison([panel]))
    if section.compared:
        with replacing(paths.REPORTS / f"pairs_{task}{section.suffix}.png") as partial:
            title = f"{task}: who beats whom{section.note}"
            partial.write_bytes(comparison_figures.who_beats_whom(*paired.matrix(section.compared), title))
    if points := comparison_points.frontier(section.groups):
        with replacing(paths.REPORTS / f"frontier_{task}{section.suffix}.png") as partial:
            reference = comparison_points.reference(section.groups)
            title = f"{task}: reward and distance{section.note}"
            partial.write_bytes(comparison_figures.frontier(points, reference, title))


def together(sections: dict[str, list[comparison.Section]]) -> None:
    """Write one table and one figure over several tasks; in the figure each reference has axes of its own."""
    rows = comparison.across({task: [g for one in found for g in one.groups] for task, found in sections.items()})
    base = paths.REPORTS / f"compare_{'_'.join(sections)}"
    write_csv(base.with_suffix(".csv"), rows, list(rows[0]))
    cells = comparison.across_cells(rows, "±")
    with replacing(base.with_suffix(".md")) as partial:
        text = f"{comparison.table(cells)}\n\n![Mean reward by task]({base.name}.png)\n\n{comparison.CAPTION}"
        partial.write_text(f"# {', '.join(sections)}\n\n{text}\n", "utf-8")
    panels = [
        comparison_points.panel(one.groups, f"{task}: {one.label}") for task, found in sections.items() for one in found
    ]
    with replacing(base.with_suffix(".png")) as partial:
        partial.write_bytes(comparison_figures.comparison(panels, "Reward by task and run"))
    click.echo(align(comparison.across_cells(rows, "+-"), left=1))
    click.echo(f"{len(rows)} rows over {len(sections)} tasks: {base}.md, .csv and .png")


if __name__ == "__main__":
    main()
