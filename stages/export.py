"""Writes a run's policy as a folder that plain transformers loads, with a model card. Not a stage of the pipeline.

python -m stages.export a_lol --to exported --merge --dtype bf16
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from alol.base.errors import InputError, known
from alol.base.files import read_json, replacing
from alol.config import params, paths
from alol.data import schema
from alol.evaluation import exporting, external_models, model_card
from alol.models.policies import POINTER, Pointer
from alol.training import rollout
from stages import _processes
from stages._cli import mistakes, speak

REFERENCE = "reference"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


@click.command(name="export")
@click.argument("run")
@click.option("--to", "target", required=True, type=click.Path(path_type=Path), help="A folder, which is made.")
@click.option("--task", help="A file of tasks/, without .yaml; by default the `task` of params.yaml.")
@click.option("--merge", is_flag=True, help="Merge an adapter into its base: one whole model.")
@click.option("--dtype", type=click.Choice(list(exporting.DTYPES)), default="fp32", help="Of the weights: fp32.")
@click.option("--push", help="Upload it as this model (owner/name) of the hub, private; log in with `hf auth login`.")
def main(run: str, target: Path, task: str | None, merge: bool, dtype: str, push: str | None) -> None:
    """Export RUN, an algorithm or `reference`: weights, tokenizer and a model card, checked before it says done."""
    speak()
    with mistakes(task):
        _processes.alone("export")
        loaded = _loaded(run, task)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{target} is there already; name a new folder, or remove it")
        if push is not None and not HUB_ID.fullmatch(push):
            raise InputError(f"--push is '{push}', but must be OWNER/NAME, of letters, digits, '-', '_' and '.'")
        exported = _write(loaded, run, target, merge, dtype)
        click.echo(
            f"{target}: {'adapter on ' + exported.base if exported.base else 'whole model'} in {dtype}; plain "
            f"transformers answers {exporting.CHECKED} test prompts as the pipeline does"
        )
        if push:
            click.echo(f"pushed to {exporting.push(target, push)}")


def _loaded(run: str, task: str | None) -> params.Params:
    """The parameters of the run, which must have been trained and evaluated."""
    loaded = params.load(task)
    made = sorted(path.parent.name for path in Path("models", loaded.task).glob(f"*/{POINTER}"))
    if run not in made:
        raise known(f"run of task '{loaded.task}'", run, made or ["none yet; run `dvc repro`"])
    return loaded if run == REFERENCE else params.load(loaded.task, run)


def _write(p: params.Params, run: str, target: Path, merge: bool, dtype: str) -> exporting.Exported:
    answers = paths.baselines(p.task) if run == REFERENCE else paths.generations(p.task, run)
    columns = schema.scored(schema.ROLLOUTS, p.test_rewards)
    rows = schema.rows(answers / "test.parquet", columns)
    numbers = external_models.summarise(rows, paths.annotated(p.task), paths.baselines(p.task), p)
    folder = paths.policy(p.task, run)
    pointer = read_json(folder / POINTER, Pointer)
    prompts = rollout.prompt_rows(paths.clean(p.task) / "test.parquet")
    with replacing(target) as partial:
        exported = exporting.write(folder, partial, prompts, p, merge=merge, dtype=dtype)
        card = model_card.render(p, run, pointer, exported, numbers, dtype)
        (partial / "README.md").write_text(card, encoding="utf-8")
    return exported


if __name__ == "__main__":
    main()
