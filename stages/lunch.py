"""What the filter A > 0 keeps of a task's training responses: a look before training. Not a stage of the pipeline.

python -m stages.lunch --task demo
"""

from __future__ import annotations

import click

from alol.base.files import read_json, replacing
from alol.base.text import align
from alol.config import params, paths
from alol.data import schema
from alol.evaluation import comparison, comparison_figures, lunch
from alol.evaluation.csv_files import write_csv
from stages._cli import mistakes


@click.command(name="lunch")
@click.option("--task", help="A file of tasks/, without .yaml; by default the `task` of params.yaml.")
def main(task: str | None) -> None:
    """Say how many training responses have a reward above V(x), by subset, length and label; after stage advantage."""
    with mistakes(task):
        loaded = params.load(task)
        train = f"{schema.TRAIN}.parquet"
        tables = (folder(loaded.task) / train for folder in (paths.annotated, paths.advantages))
        timed = paths.cost("advantage")
        seconds = read_json(timed, dict[str, float])["seconds"] if timed.exists() else None
        found = lunch.look(*tables, loaded, seconds)
        write(found, loaded.task)


def write(found: lunch.Lunch, task: str) -> None:
    """The table, the curve and the picture, in reports/."""
    base = paths.REPORTS / f"lunch_{task}"
    said, cells = "\n".join(lunch.words(found)), lunch.cells(found.groups)
    write_csv(base.with_suffix(".csv"), found.curve, list(found.curve[0]))
    with replacing(base.with_suffix(".png")) as partial:
        partial.write_bytes(comparison_figures.lunch(found.curve, f"{task}: what a threshold of A keeps"))
    with replacing(base.with_suffix(".md")) as partial:
        picture = f"![What a threshold of A keeps]({base.name}.png)"
        partial.write_text(
            f"# {task}: the lunch\n\n{said}\n\n{comparison.table(cells)}\n\n{picture}\n", encoding="utf-8"
        )
    click.echo(f"{align(cells, left=2)}\n{said}\n{base}.md, .csv and .png")


if __name__ == "__main__":
    main()
