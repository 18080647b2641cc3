"""Converts the published Keras critic of commonsense triples to a model that the pipeline loads. No stage of it."""

from __future__ import annotations

from pathlib import Path

import click

from alol.base.text import align
from alol.rewards import convert_critic
from stages._cli import mistakes, speak


@click.command(name="convert_critic")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--base", required=True, help="Hub id or folder of the RoBERTa it was made from: roberta-large-mnli.")
@click.option("--base-revision", help="Revision of a hub id.")
def main(source: Path, target: Path, base: str, base_revision: str | None) -> None:
    """Write the critic of the SavedModel folder SOURCE to the folder TARGET, replacing what is there."""
    speak()
    with mistakes():
        found = convert_critic.convert(source, target, base, base_revision)
    lines = [
        ["", "count", "published"],
        ["encoder tensors, transposed", str(found.transposed), "145"],
        ["encoder tensors, as they are", str(found.plain), "246"],
        ["head tensors", str(found.head), "4"],
        ["parameters", f"{found.parameters:,}", "355,885,057"],
        ["variables left out", str(found.left_out), ""],
    ]
    click.echo(align(lines, left=1))
    click.echo(f"critic: {target}")


if __name__ == "__main__":
    main()
