"""How many answers of a policy are empty, are the same as another one, or have no word that their prompt does not have.

A reward model that never saw an answer which repeats its prompt may take it for a good one.

python -m benchmarks.echoes --ignore PersonX,PersonY,be,to,a,the,of,in data/generations/comet_135m/*/test.parquet
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import click

from alol.base.text import align
from alol.data import schema
from alol.data.words import split
from stages._cli import mistakes

HEADER = ["policy", "answers", "different", "empty", "echoes", "reward", "without echoes"]


def echoes(prompt: str, response: str, ignored: Set[str] = frozenset()) -> bool:
    """Whether all words of the response, of which there are some, stand in the prompt (in whatever order and case) or
    are ignored."""
    words = set(split(response.lower()))
    return bool(words) and words - ignored <= set(split(prompt.lower()))


def line(rows: Sequence[Mapping[str, Any]], ignored: Set[str]) -> list[str]:
    """Of one policy's answers: counts, share of echoes, and the mean of each reward with and without these."""
    kept = [row for row in rows if not echoes(row["prompt"], row["response"], ignored)]
    columns = [name for name in rows[0] if name.startswith("reward_")]

    def means(of: Sequence[Mapping[str, Any]]) -> str:
        return " ".join(f"{sum(row[name] for row in of) / max(1, len(of)):.3f}" for name in columns)

    answers = [row["response"].strip() for row in rows]
    share = f"{1 - len(kept) / len(rows):.1%}"
    return [*map(str, (len(rows), len(set(answers)), answers.count(""))), share, means(rows), means(kept)]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--ignore", default="", help="Words that count as no response's own, with commas between.")
def main(files: tuple[Path, ...], ignore: str) -> None:
    """A line for each of FILES, tables of generated responses with their rewards."""
    with mistakes():
        ignored = {word.strip().lower() for word in ignore.split(",")}
        found = ([file.parent.name, *line(schema.rows(file), ignored)] for file in files)
        click.echo(align([HEADER, *found], left=1))


if __name__ == "__main__":
    main()
