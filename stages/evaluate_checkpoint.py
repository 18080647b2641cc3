"""Evaluates what others trained on a task's test prompts, with the pipeline's metrics. Not a stage of the pipeline.

python -m stages.evaluate_checkpoint a_lol_published --task hha --adapter abaheti95/a_lol_good_prioirty_qlora_hh
"""

from __future__ import annotations

import dataclasses

import click

from alol.algorithms import registry
from alol.base.errors import InputError
from alol.base.files import replacing, write_json
from alol.compute import launch
from alol.config import params, paths, ranges
from alol.data import schema
from alol.evaluation import external_models, summary_tables
from alol.models import templates
from stages import _processes
from stages._cli import mistakes, speak


@click.command(name="evaluate_checkpoint")
@click.argument("name")
@click.option("--task", help="A file of tasks/, without .yaml; by default the `task` of params.yaml.")
@click.option("--model", help="A complete model: hub id or folder; by default the task's base.")
@click.option("--revision", help="Of the hub model.")
@click.option("--adapter", help="An adapter on the model: hub id or folder.")
@click.option("--adapter-revision", help="Of the hub adapter.")
@click.option("--quantized/--full-precision", default=None, help="4-bit NF4 or not; by default as the task's base.")
@click.option("--human", help="The model's own mark before a human turn; with --assistant it replaces the prompt.")
@click.option("--assistant", help="Its mark before an assistant turn; \\n is a new line in both.")
@click.option("--system", default="", help="Its text before the first turn.")
@click.option("--max-prompt", type=click.IntRange(1), help="Tokens; by default the task's policy.max_prompt.")
@click.option("--cut", multiple=True, help="A text at which responses are cut; replaces the task's. May be repeated.")
def main(
    name: str,
    task: str | None,
    human: str | None,
    assistant: str | None,
    system: str,
    max_prompt: int | None,
    cut: tuple[str, ...],
    **which: str | bool | None,
) -> None:
    """Evaluate a checkpoint on the task's test prompts as NAME; results go to reports/checkpoints/."""
    speak()
    with mistakes(task):
        _processes.alone("evaluate_checkpoint")
        _check(name)
        loaded = _changed(params.load(task), max_prompt, cut)
        template = _template(system, human, assistant)
        if template is not None:
            loaded = dataclasses.replace(loaded, policy=dataclasses.replace(loaded.policy, template=templates.TEXT))
        _evaluate(name, loaded, external_models.Checkpoint(**which), template)


def _check(name: str) -> None:
    """The name becomes a folder, and stands beside those of runs in the judge and the comparison."""
    if problem := ranges.check_name(name, "name"):
        raise InputError(problem)
    if name in (*registry.NAMES, "reference", "gold"):
        raise InputError(f"the name '{name}' is that of a run; choose another for the checkpoint")


def _changed(loaded: params.Params, max_prompt: int | None, cut: tuple[str, ...]) -> params.Params:
    policy, generate = loaded.policy, loaded.generate
    if max_prompt is not None:
        policy = dataclasses.replace(policy, max_prompt=max_prompt)
    if cut:
        generate = dataclasses.replace(generate, cut=[_lines(text) for text in cut], stop=[], stop_ids=[])
    return dataclasses.replace(loaded, policy=policy, generate=generate)


def _template(system: str, human: str | None, assistant: str | None) -> external_models.Template | None:
    if human is None and assistant is None:
        if system:
            raise InputError("--system belongs to a prompt of its own: give --human and --assistant too")
        return None
    if human is None or assistant is None:
        raise InputError("a prompt of its own needs both --human and --assistant")
    return external_models.Template(_lines(system), _lines(human), _lines(assistant))


def _lines(text: str) -> str:
    return text.replace("\\n", "\n")


def _evaluate(
    name: str, loaded: params.Params, found: external_models.Checkpoint, template: external_models.Template | None
) -> None:
    task = loaded.task
    rows = external_models.answers(
        found, template, loaded, paths.reference(task), paths.clean(task), paths.reward_model(task),
        launch.accelerator(loaded.launch),
    )  # fmt: skip
    numbers = external_models.summarise(rows, paths.annotated(task), paths.baselines(task), loaded)
    target = paths.checkpoints(task) / name
    with replacing(target) as folder:
        folder.mkdir(parents=True)
        schema.write(folder / "generations.parquet", schema.scored(schema.ROLLOUTS, loaded.test_rewards), rows)
        write_json(folder / "summary.json", numbers)
    click.echo(summary_tables.terminal_table(numbers))
    click.echo(f"{target}: summary.json, generations.parquet")


if __name__ == "__main__":
    main()
