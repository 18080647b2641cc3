"""What a trained classifier or critic gives to responses that fit any prompt, with and without mismatched examples.

It trains the component anew for each share of `train.mismatched`, in a folder of its own, from the cleaned data of a
task, and scores the labelled responses of the best class by models that have not seen their prompts: those that are
the most frequent, and those that came once; each with its own prompt and with that of another one.

python -m benchmarks.generic_responses --task comet_135m --component p_valid_model --shares 0,0.5,1 --out generic.json
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np

from alol import rewards
from alol.base.errors import ParameterError
from alol.base.files import write_json
from alol.base.text import align
from alol.config import params, paths
from alol.config.params import Params
from alol.data import schema
from alol.rewards import mismatched, training
from alol.rewards.examples import Examples, gather, parts
from alol.rewards.options import Trainable, fitted
from stages._cli import mistakes, speak

OTHERS = 1.0  # responses with another prompt, for each one
ROWS = {
    "accuracy": "accuracy",
    "area under the curve": "area",
    "accuracy, mismatched": "accuracy_mismatched",
    "generic, own prompt": "generic_own",
    "generic, other prompt": "generic_other",
    "specific, own prompt": "specific_own",
    "specific, other prompt": "specific_other",
    "bad ones": "bad",
}


def area(good: np.ndarray, bad: np.ndarray) -> float:
    """How often a good one scores higher than a bad one: the area under the ROC curve; equal ones count half."""
    ordered = np.sort(bad)
    below, upto = (np.searchsorted(ordered, good, side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(ordered))


def prepare(task: str, folder: Path, options: Trainable, where: str, alone: bool) -> Path:
    """Cleaned data like the task's; `alone`: without training responses, so that one model is trained, not folds."""
    clean = folder / "clean"
    shutil.copytree(paths.clean(task), clean)
    if alone:
        schema.write(clean / f"{schema.TRAIN}.parquet", schema.RESPONSES, [])
    if options.train.texts not in {path.stem for path in (clean / "labels").glob("*.parquet")}:
        raise ParameterError(f"{where}.train.texts", f"is {options.train.texts}, no entry of clean.labels")
    return clean


def measure(p: Params, component: str, clean: Path, count: int, seen: Trainable) -> dict[str, float]:
    """What one training makes of the examples that it has not seen, and of mismatched ones of the options `seen`."""
    where, options = f"rewards.{component}", dict(fitted(p.rewards))[component]
    given = gather(clean, options, where)
    others = mismatched.added(given, seen, where)
    with tempfile.TemporaryDirectory() as place:
        found = training.train({component: p.rewards[component]}, clean, Path(place) / "m", p.launch)
        scorer = rewards.load({component: p.rewards[component]}, Path(place) / "m", p.launch)
        own = parts(others, options.train.folds, options.train.holdout)
        held = [i for i in range(len(others.rows)) if given.shared or own[i] == 0]
        cells = zip(*(others.rows[i] for i in held), strict=True)
        scores = dict(zip(held, scorer.score(*map(list, cells), origin="train")[component].tolist(), strict=True))
    good = mismatched.best(options)
    first = len(given.rows)
    kinds = _kinds(given, good, count)
    result = {key: found[component].get(key, float("nan")) for key in ("accuracy", "accuracy_mismatched")}
    sides = {
        name: np.array([scores[i] for i in held if i < first and (given.targets[i] == good) == wanted])
        for name, wanted in (("good", True), ("bad", False))
    }
    result |= {"area": area(sides["good"], sides["bad"]), "bad": float(sides["bad"].mean())}
    for name, kind in kinds.items():
        chosen = [i for i in held if (i >= first or others.targets[i] == good) and _said(others, i) in kind]
        result[f"{name}_own"] = float(np.mean([scores[i] for i in chosen if i < first]))
        result[f"{name}_other"] = float(np.mean([scores[i] for i in chosen if i >= first]))
    return result


def _said(examples: Examples, i: int) -> str:
    _, response, context = examples.rows[i]
    return f"{context.get('relation')} {' '.join(response.split()).casefold()}"


def _kinds(given: Examples, good: int, count: int) -> dict[str, set[str]]:
    """The `count` most frequent good responses, and those that came once (of one relation, where there are some)."""
    said = Counter(_said(given, i) for i, target in enumerate(given.targets) if target == good)
    return {
        "generic": {text for text, _ in said.most_common(count)},
        "specific": {text for text, times in said.items() if times == 1},
    }


def with_share(p: Params, component: str, share: float, keys: dict[str, Any]) -> Params:
    """The parameters with this share of mismatched examples, and other keys of `train`."""
    specs = copy.deepcopy(p.rewards)
    specs[component]["train"] |= {"mismatched": share, **keys}
    return dataclasses.replace(p, rewards=specs)


def table(rows: list[dict[str, Any]]) -> str:
    """A column for each share."""
    header = ["mismatched", *(f"{row['share']:g}" for row in rows)]
    return align([header, *([name, *(f"{row[key]:.3f}" for row in rows)] for name, key in ROWS.items())], left=1)


@click.command()
@click.option("--task", required=True, help="A file of tasks/, without .yaml, of which stage clean has run.")
@click.option("--component", required=True, help="A classifier or a critic with a `train` section.")
@click.option("--shares", default="0,0.5,1", show_default=True, help="Values of train.mismatched.")
@click.option("--count", default=20, show_default=True, type=click.IntRange(1), help="How many responses are generic.")
@click.option(
    "--holdout", type=click.FloatRange(0, 1, True, True), help="Train once, on the other prompts; else folds."
)
@click.option("--tuning", type=click.Choice(["full", "lora", "head"]), help="What is trained; else as the task says.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A JSON file for the rows.")
def main(
    task: str, component: str, shares: str, count: int, holdout: float | None, tuning: str | None, out: Path | None
) -> None:
    """Print what mismatched examples do to the scores of generic responses."""
    speak()
    with mistakes(task), tempfile.TemporaryDirectory() as place:
        p, where, rows = params.load(task), f"rewards.{component}", []
        options = dict(fitted(p.rewards)).get(component)
        if not isinstance(options, Trainable) or options.train is None:
            raise ParameterError(where, "is no component with a `train` section")
        clean = prepare(task, Path(place), options, where, holdout is not None)
        keys = {key: value for key, value in (("holdout", holdout), ("tuning", tuning)) if value is not None}
        seen = dict(fitted(with_share(p, component, OTHERS, keys).rewards))[component]
        for share in shares.split(","):
            here = with_share(p, component, float(share), keys)
            rows.append({"share": float(share), **measure(here, component, clean, count, seen)})
            click.echo(table(rows))
        if out is not None:
            write_json(out, rows)


if __name__ == "__main__":
    main()
