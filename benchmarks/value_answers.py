"""What V(x) is worth when it is fitted to one answer or to several, on the same held-out validation prompts.

It runs in the folder of a project in which a task's stages up to baseline have run, and changes nothing of theirs.

python -m benchmarks.value_answers --task demo --out value_answers.json
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from accelerate import Accelerator

from alol.base.files import write_json
from alol.base.text import align
from alol.compute import launch
from alol.compute.shards import Pool
from alol.config import params, paths
from alol.config.params import Params
from alol.data import schema
from alol.models import policies
from alol.models.policies import LoadedPolicy
from alol.models.tokens import Encoder
from alol.rewards import scoring
from alol.training import rollout, value, value_head
from stages._cli import mistakes, speak

TABLE = f"{schema.VALIDATION}.parquet"
COLUMNS = ("error", "noise", "learnable", "discarded")
SPREAD = ("learnable", "discarded")  # shown with the smallest and the largest of the fits


def asking(p: Params, samples: int, judge: int, seed: int) -> Params:
    """The parameters with so many answers to fit V(x) to and to judge it by, and a seed of the fit."""
    asked = dataclasses.replace(p.generate.rollout, samples=samples, judge_samples=judge, judge_always=True)
    generate = dataclasses.replace(p.generate, rollout=asked)
    return dataclasses.replace(p, generate=generate, value=dataclasses.replace(p.value, seed=seed))


def prepare(folder: Path, policy: LoadedPolicy, p: Params, count: int, main: Accelerator) -> None:
    """The scored answers, `count` sampled ones to each prompt, in `folder`, as stage baseline leaves them."""
    prompts = rollout.prompt_rows(paths.clean(p.task) / TABLE)
    drawn = rollout.samples(Pool(lambda: rollout.Answerer.of(policy, p, main)), prompts, p, count)
    schema.write(folder / "unscored.parquet", schema.SAMPLES, drawn)
    target = paths.samples(folder) / TABLE
    by = scoring.Scoring.of(p, paths.reward_model(p.task))
    scoring.score_table(by, folder / "unscored.parquet", target, schema.SAMPLES, "generated", test=False)
    shutil.copy(paths.baselines(p.task) / TABLE, folder / TABLE)


def discarded(policy: LoadedPolicy, heads: list[value_head.ValueHead], p: Params, main: Accelerator) -> np.ndarray:
    """For each head the share of the responses that train chooses from with R - V(x) <= 0."""
    encoder, rewarded, values = Encoder(policy.tokenizer, p.policy), [], []
    path = paths.annotated(p.task) / f"{schema.TRAIN}.parquet"
    for group in schema.read(path, schema.scored(schema.RESPONSES, p.reward.weights)):
        rows = [row for row in group if p.train.train_on == "all" or row["rank"] == 0]
        prompts = {row["prompt_id"]: row for row in rows}
        states = value.collect_states(
            policy.model, encoder.prompts(list(prompts.values())), policy.tokenizer.pad_token_id,
            launch.Machine(main, p.launch), p.value.part_rows,
        )  # fmt: skip
        place = {prompt: i for i, prompt in enumerate(prompts)}
        chosen = [place[row["prompt_id"]] for row in rows]
        rewarded.append(value.total_rewards(rows, p))
        values.append([value_head.predict(head, states, p.value.batch_size)[chosen] for head in heads])
    total = np.concatenate(rewarded)
    return np.array([(total <= np.concatenate([one[i] for one in values])).mean() for i in range(len(heads))])


def measure(p: Params, answers: list[int], judge: int, fits: int) -> list[dict[str, Any]]:
    """A row for the best constant, for the answer of stage rollout, and for each number of sampled ones.

    Means over so many fits, which differ in `value.seed`: folds, initial weights and order of the prompts.
    """
    main, policy = launch.accelerator(p.launch), policies.load(paths.reference(p.task))
    names = {0: "1 sampled" if p.generate.sample else "1 greedy", **{count: f"{count} sampled" for count in answers}}
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), policy, p, judge, main)
        with main.autocast():
            found = [
                value.from_rollouts(policy, Path(place), asking(p, count, judge, p.value.seed + i), main)
                for count in names
                for i in range(fits)
            ]
            shares = discarded(policy, [fit.head for fit in found], p, main)
    judged = [fit.judged for fit in found if fit.judged is not None]
    numbers = [[one.mse, one.noise, one.learnable, share] for one, share in zip(judged, shares, strict=True)]
    each = np.array(numbers).reshape(len(names), fits, len(COLUMNS))
    constant = float(np.mean([one.mse_constant for one in judged]))
    first = {"error": constant, "noise": judged[0].noise, "learnable": constant - judged[0].noise}
    rows = [
        {"answers": name}
        | dict(zip(COLUMNS, of_fits.mean(0).tolist(), strict=True))
        | {f"{column}_of_fits": of_fits[:, i].tolist() for i, column in enumerate(COLUMNS) if column in SPREAD}
        for name, of_fits in zip(names.values(), each, strict=True)
    ]
    return [{"answers": "best constant", **first}, *rows]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as aligned text, with the ranges over the fits."""
    lines = [[row["answers"], *(_cell(row, name) for name in COLUMNS)] for row in rows]
    return align([["V(x) of", "held-out error", "noise", "still to learn", "discarded"], *lines], left=1)


def _cell(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return ""
    fits = row.get(f"{name}_of_fits", [])
    return f"{row[name]:.4f}" + (f" [{min(fits):.4f}, {max(fits):.4f}]" if len(fits) > 1 else "")


@click.command()
@click.option("--task", required=True, help="A file of tasks/, without .yaml.")
@click.option("--answers", default="1,4,8", show_default=True, help="Numbers of sampled answers to fit V(x) to.")
@click.option("--judge", default=8, show_default=True, type=click.IntRange(2, 1000), help="Answers that judge all.")
@click.option("--fits", default=3, show_default=True, type=click.IntRange(1), help="Seeds of the fit, averaged over.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A JSON file for the rows.")
def main(task: str, answers: str, judge: int, fits: int, out: Path | None) -> None:
    """Print what V(x) of one or several answers is worth."""
    counts = [int(part) if part.strip().isdigit() else 0 for part in answers.split(",")]
    if not all(1 <= count <= judge for count in counts):
        raise click.BadParameter(f"{answers} must be numbers from 1 to {judge}, the number of those that judge")
    speak()
    with mistakes(task):
        rows = measure(params.load(task), counts, judge, fits)
        click.echo(table(rows))
        if out is not None:
            write_json(out, rows)


if __name__ == "__main__":
    main()
