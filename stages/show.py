"""What the model sees of a row: token by token, which are trained on, which end a response. Not a stage.

python -m stages.show --task answers --row 3
"""

from __future__ import annotations

import click

from alol.base.errors import InputError
from alol.config import params, paths
from alol.data import schema
from alol.evaluation import show
from stages._cli import mistakes


@click.command(name="show")
@click.option("--task", help="A file of tasks/, without .yaml; by default the `task` of params.yaml.")
@click.option("--row", default=0, show_default=True, type=click.IntRange(min=0), help="A row of the split, from 0.")
@click.option("--split", default=schema.TRAIN, show_default=True, type=click.Choice(schema.SPLITS), help="Its table.")
def main(task: str | None, row: int, split: str) -> None:
    """Print a row of the clean data as the policy reads it."""
    with mistakes(task):
        loaded = params.load(task)
        path = paths.clean(loaded.task) / f"{split}.parquet"
        if row >= (count := schema.count(path)):
            raise InputError(f"{path} has {count} rows, counted from 0; there is no row {row}")
        start = 0
        for rows in schema.read(path, schema.RESPONSES):
            if row < start + len(rows):
                break
            start += len(rows)
        for line in show.lines(rows[row - start], loaded, paths.reference(loaded.task)):
            click.echo(line)


if __name__ == "__main__":
    main()
