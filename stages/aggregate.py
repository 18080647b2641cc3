"""Stage aggregate: gold, reference and policy on the test prompts, as metrics, plot tables and a report."""

from __future__ import annotations

from pathlib import Path

import click

from alol.base.files import read_json, replacing, write_json
from alol.config import params, paths, yaml_files
from alol.data import formats, schema
from alol.evaluation import ope, provenance, report, report_run, report_tables, summary, summary_tables, training_rows
from alol.evaluation.csv_files import write_csv
from stages._cli import command


@command("aggregate", algorithm=True)
def main(p: params.Params) -> None:
    """Compare gold, reference and policy on the test prompts: metrics, plots and a report."""
    rows, measured = measure(p, schema.TEST, paths.generations(p.task, p.algorithm))
    _, validated = measure(p, schema.VALIDATION, paths.policy(p.task, p.algorithm))
    history = read_json(paths.policy(p.task, p.algorithm) / "training.json", summary.History)
    value = read_json(paths.METRICS / "value.json", summary.ValueFit)
    reward_model = read_json(paths.METRICS / "reward_model.json", dict[str, dict[str, float]])
    subsets = [row["subset"] for row in rows["gold"]]
    log_ratios = schema.rows(paths.generations(p.task, p.algorithm) / "log_ratios.parquet", schema.LOG_RATIOS)
    summary.check_aligned({"the answers": rows["policy"], "log_ratios.parquet": log_ratios})
    result = {
        **summary.with_distance(summary.summarise(subsets, measured, p.aggregate), subsets, log_ratios),
        "validation": summary.validation(validated),
        "checkpoints": summary.checkpoints(history["validation"]),
        **summary.run_numbers(history, value, reward_model),
    }
    for split, estimates in off_policy(p).items():
        result["policy"][split][summary.OPE] = estimates
    train = f"{schema.TRAIN}.parquet"
    training = training_rows.training(paths.annotated(p.task) / train, paths.advantages(p.task) / train, p)
    if training.good is not None:
        result["filter"] = summary.filtered(training.good, training.columns["advantage"])
    heldout = summary.heldout(paths.value(p.task) / "heldout.json")
    sizes = {schema.TRAIN: (training.prompts, training.responses)}
    for split, found in ((schema.VALIDATION, validated), (schema.TEST, measured)):
        sizes[split] = len(found["gold"].texts), schema.count(paths.annotated(p.task) / f"{split}.parquet")
    settings = report_tables.differing(yaml_files.read_task(p.task), yaml_files.read_defaults())
    write(report_run.Run(p, result, rows, measured, training, history, heldout, reward_model, sizes, settings))


def measure(p: params.Params, split: str, policy: Path) -> tuple[dict[str, summary.Rows], dict[str, summary.Measured]]:
    """The rows of gold, reference and policy on a split, and their metrics; `policy` holds the policy's table."""
    table = f"{split}.parquet"
    own, answers = (schema.scored(columns, p.rewards) for columns in (schema.RESPONSES, schema.ROLLOUTS))
    rows = {
        "gold": summary.gold_rows(schema.rows(paths.annotated(p.task) / table, own), p),
        "reference": schema.rows(paths.baselines(p.task) / table, answers),
        "policy": schema.rows(policy / table, answers),
    }
    return rows, summary.compared(rows, p, formats.get(p.clean.format))


def off_policy(p: params.Params) -> dict[str, dict[str, float]]:
    """What the logged test responses say of the policy, by split; R is that of training's rewards."""
    logged = paths.logged(p.task)
    tables = {
        logged.name: schema.rows(logged, ["prompt_id", "subset"]),
        "advantages": schema.rows(paths.advantages(p.task) / "test.parquet", ["prompt_id", "reward", "value"]),
        "logged.parquet of the policy": schema.rows(
            paths.generations(p.task, p.algorithm) / "logged.parquet", schema.LOG_RATIOS
        ),
    }
    summary.check_aligned(tables)
    subsets, measured, ratios = tables.values()
    found = ((ratios, "log_ratio"), (measured, "reward"), (measured, "value"), (ratios, "tokens"))
    return ope.by_split([row["subset"] for row in subsets], *([row[name] for row in rows] for rows, name in found))


def write(run: report_run.Run) -> None:
    identity = {"task": run.params.task, "algorithm": run.params.algorithm, "seed": run.params.seed}
    for name, rows in report_run.plot_tables(run).items():
        write_csv(paths.PLOTS / name, rows, report_run.PLOT_COLUMNS[name])
    write_csv(paths.METRICS / "results.csv", summary_tables.tidy(run.summary, identity), [*identity, "model", "split"])
    for path, text in (
        (paths.METRICS / "report.html", report.render(run)),
        (provenance.FILE, provenance.text(run.params)),
    ):
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    write_json(paths.METRICS / "summary.json", run.summary)
    write_json(paths.METRICS / "headline.json", summary.headline(run.summary, report.judged(run).word))
    click.echo(summary_tables.terminal_table(run.summary))
    if costs := provenance.costs():
        click.echo(f"\n{costs}\n")
    click.echo(f"report: {paths.METRICS / 'report.html'}; this run's time, machine and commit: {provenance.FILE}")
    for line in reversed(report.lines(run)):  # so that the verdict comes last, where one looks
        click.echo(line)


if __name__ == "__main__":
    main()
