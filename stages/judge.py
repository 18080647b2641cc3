"""Lets a language model compare the test responses of two runs. Not a stage of the pipeline.

python -m stages.judge a_lol reference --task hha
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click

from alol.base.errors import InputError, known
from alol.base.files import replacing, write_json
from alol.config import params, paths, sections, yaml_files
from alol.data import schema
from alol.evaluation import comparison_figures, endpoint, judge, summary
from stages._cli import mistakes, speak


@click.command(name="judge")
@click.argument("first")
@click.argument("second")
@click.option("--task", help="A file of tasks/, without .yaml; by default the `task` of params.yaml.")
def main(first: str, second: str, task: str | None) -> None:
    """Judge FIRST against SECOND: algorithms, reference, gold, evaluated checkpoints, or .parquet files."""
    speak(logging.WARNING)
    with mistakes(task):
        raw = yaml_files.read_params()
        compare(params.load(task), first, second, endpoint.settings(raw["judge"]))


def compare(loaded: params.Params, first: str, second: str, settings: sections.Judge) -> None:
    rows = {name: responses(loaded, name) for name in (first, second)}
    if len(rows) < 2:
        raise InputError(f"'{first}' against itself: name two runs")
    for name, found in rows.items():
        judge.check(found, name)
    summary.check_aligned(rows)
    asked = endpoint.Endpoint(settings, paths.work("judge"))
    questions = judge.questions(loaded.aggregate.questions)
    pairs, left_out = judge.pairs(rows[first], rows[second], questions, settings.rows, settings.seed)
    if not pairs:
        raise InputError("every test row is marked as contaminated, so there is nothing to judge")
    answers = asked.answers({question for pair in pairs for question in pair.questions})
    found = [judge.judged(pair, answers, questions) for pair in pairs]
    failed = sum(judge.FAILED in [row[name] for name in questions] for row in found)
    if failed == len(found):
        raise InputError(f"no row was answered in both orders; the last error: {asked.last_error}")
    results = judge.by_subset(found, questions, settings.bootstrap, settings.seed)
    write(loaded.task, (first, second), found, results, left_out, settings)
    if failed:
        click.echo(f"{failed} of {len(found)} rows have no answer ({asked.last_error}); run again to ask for them")


def responses(loaded: params.Params, name: str) -> list[dict[str, Any]]:
    """The test rows of what the user calls `name`."""
    task = loaded.task
    if name.endswith(".parquet"):
        return schema.rows(Path(name))
    places = {
        "gold": paths.annotated(task) / "test.parquet",
        "reference": paths.baselines(task) / "test.parquet",
        **{path.parent.name: path for path in paths.generations(task, "").glob("*/test.parquet")},
        **{path.parent.name: path for path in paths.checkpoints(task).glob("*/generations.parquet")},
    }
    places = {key: path for key, path in places.items() if path.exists()}
    if name not in places:
        raise known(f"run of task '{task}'", name, places or ["none yet; run `dvc repro`"])
    if name == "gold":
        return summary.gold_rows(schema.rows(places[name], schema.scored(schema.RESPONSES, loaded.rewards)), loaded)
    return schema.rows(places[name])


def write(
    task: str,
    names: tuple[str, str],
    found: list[dict[str, Any]],
    results: dict[str, Any],
    left_out: int,
    settings: sections.Judge,
) -> None:
    """The four files in reports/, and the table."""
    short = [name.removesuffix(".parquet").strip("/.").replace("/", "-") for name in names]
    base = paths.REPORTS / f"judge_{task}_{short[0]}_vs_{short[1]}"
    about = f"Judge: {settings.model}; {len(found)} prompts of {task}, {left_out} contaminated ones left out."
    identity = {"first": names[0], "second": names[1], "task": task, "model": settings.model}
    write_json(base.with_name(base.name + ".json"), {**identity, "contaminated": left_out, "results": results})
    with replacing(base.with_name(base.name + ".jsonl")) as partial:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    with replacing(base.with_name(base.name + ".png")) as partial:
        partial.write_bytes(comparison_figures.verdicts(results["all"], judge.RATES, f"{names[0]} against {names[1]}"))
    with replacing(base.with_name(base.name + ".md")) as partial:
        partial.write_text(judge.markdown(results, *names, about, f"{base.name}.png"), encoding="utf-8")
    click.echo(judge.terminal_table(results))
    click.echo(f"{about}\n{base}.md, .json, .jsonl and .png")


if __name__ == "__main__":
    main()
