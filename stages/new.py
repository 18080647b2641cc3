"""A task of one's own from a preset, a task file for a kind of data that many have. No stage of the pipeline.

python -m stages.new chats --preset ultrafeedback
"""

from __future__ import annotations

from pathlib import Path

import click

from alol.base.errors import InputError, known
from alol.base.files import replacing
from alol.config import ranges, yaml_files
from stages._cli import mistakes


@click.command(name="new")
@click.argument("name")
@click.option("--preset", required=True, help="A file of tasks/presets/, without .yaml.")
@mistakes()
def main(name: str, preset: str) -> None:
    """Write tasks/NAME.yaml, a copy of a preset to change as you like."""
    target = create(name, preset)
    click.echo(f"{target} is a copy of {yaml_files.PRESETS / preset}.yaml; next: python -m stages.check --task {name}")


def create(name: str, preset: str, root: Path = Path()) -> Path:
    """The task's file; raises InputError for a name that no task can have, or one has, and for an unknown preset."""
    if problem := ranges.check_name(name, "task name"):
        raise InputError(problem)
    presets = yaml_files.preset_names(root)
    if preset not in presets:
        raise known("preset", preset, presets or [f"none; {yaml_files.PRESETS}/ has no file"])
    target = root / yaml_files.TASKS / f"{name}.yaml"
    if target.exists():
        raise InputError(f"{target} is there already; choose another name, or delete it")
    content = (root / yaml_files.PRESETS / f"{preset}.yaml").read_bytes()
    with replacing(target) as partial:
        partial.write_bytes(content)
    return target


if __name__ == "__main__":
    main()
