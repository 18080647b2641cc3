"""What a trained classifier or critic gives to responses that fit any prompt, with and without mismatched examples.

It trains the component anew for each share of `train.mismatched`, in a folder of its own, from the cleaned data of a
task, and scores the labelled responses of the best class by models that have not seen their prompts: those that are
the most frequent, and those that came once; each with its own prompt and with that of another one.

python -m benchmarks.generic_responses --task comet_135m --component p_valid_model --shares 0,0.5,1 --out generic.json
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np

from alol import rewards
from alol.base.errors import ParameterError
from alol.base.files import write_json
from alol.config import params, paths
from alol.config.params import Params
from alol.evaluation.summary import align
from alol.rewards import mismatched, training
from alol.rewards.examples import Examples, gather
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


def measure(p: Params, component: str, given: Examples, others: Examples, count: int) -> dict[str, float]:
    """What one training makes of the given examples, and of those at the end of `others`, which are mismatched."""
    options = dict(fitted(p.rewards))[component]
    with tempfile.TemporaryDirectory() as place:
        found = training.train({component: p.rewards[component]}, paths.clean(p.task), Path(place) / "m", p.launch)
        scorer = rewards.load({component: p.rewards[component]}, Path(place) / "m", p.launch)
        cells = [list(column) for column in zip(*others.rows, strict=True)]
        scores = scorer.score(*cells, origin="train")[component]
    targets = np.array(given.targets) == mismatched.best(options)
    own, other = scores[: len(targets)], scores[len(targets) :]
    kinds = _kinds(options, given, targets, count)
    of_other = _kinds_of(options, others, len(targets), kinds)
    result = {key: found[component].get(key, float("nan")) for key in ("accuracy", "accuracy_mismatched")}
    result |= {"area": area(own[targets], own[~targets]), "bad": float(own[~targets].mean())}
    for name, kind in kinds.items():
        result[f"{name}_own"] = float(
            own[[i for i in np.flatnonzero(targets) if _said(options, given, i) in kind]].mean()
        )
        result[f"{name}_other"] = float(other[of_other[name]].mean())
    return result


def _said(options: Trainable, examples: Examples, i: int) -> str:
    _, response, context = examples.rows[i]
    return f"{context.get('relation')} {' '.join(response.split()).casefold()}"


def _kinds(options: Trainable, given: Examples, good: np.ndarray, count: int) -> dict[str, set[str]]:
    said = Counter(_said(options, given, i) for i in np.flatnonzero(good))
    return {
        "generic": {text for text, _ in said.most_common(count)},
        "specific": {text for text, times in said.items() if times == 1},
    }


def _kinds_of(options: Trainable, others: Examples, start: int, kinds: dict[str, set[str]]) -> dict[str, list[int]]:
    rows = range(start, len(others.rows))
    return {name: [i - start for i in rows if _said(options, others, i) in kind] for name, kind in kinds.items()}


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
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A JSON file for the rows.")
def main(task: str, component: str, shares: str, count: int, out: Path | None) -> None:
    """Print what mismatched examples do to the scores of generic responses."""
    speak()
    with mistakes(task):
        p, where = params.load(task), f"rewards.{component}"
        options = dict(fitted(p.rewards)).get(component)
        if not isinstance(options, Trainable) or options.train is None:
            raise ParameterError(where, "is no component with a `train` section")
        given = gather(paths.clean(task), options, where)
        asked = dict(fitted(with_share(p, component, OTHERS, {}).rewards))[component]
        others, rows = mismatched.added(given, asked, where), []
        for share in shares.split(","):
            here = with_share(p, component, float(share), {})
            rows.append({"share": float(share), **measure(here, component, given, others, count)})
            click.echo(table(rows))
        if out is not None:
            write_json(out, rows)


if __name__ == "__main__":
    main()
