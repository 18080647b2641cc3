"""Rows with one column per reward component, scored piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from alol.base.errors import InputError
from alol.base.files import read_json, replacing, write_json
from alol.base.work import Work
from alol.config import paths
from alol.config.params import SETTINGS
from alol.data import schema
from alol.data.parts import Parts, pieces
from alol.rewards.components import Origin, Rewards

Rows = list[dict[str, Any]]


def score_table(
    rewards: Rewards, source: Path, target: Path, columns: pa.Schema, origin: Origin, work: Work | None = None
) -> None:
    """Copies the `columns` of a table and adds `reward_<component>`; raises InputError naming the table and the row."""
    with schema.writing(target, schema.scored(columns, rewards.names)) as writer:
        for rows in scored(
            rewards, lambda: schema.read(source, columns), schema.count(source), origin, str(source), work
        ):
            writer.write(rows)


def score_rows(rewards: Rewards, rows: Rows, target: Path, work: Work | None = None) -> None:
    """Writes rollouts with `reward_<component>`, as `score_table` does with a table's."""
    with schema.writing(target, schema.scored(schema.ROLLOUTS, rewards.names)) as writer:
        for found in scored(
            rewards, lambda: pieces([rows], schema.ROW_GROUP), len(rows), "generated", str(target), work
        ):
            writer.write(found)


def scored(
    rewards: Rewards,
    source: Callable[[], Iterator[Sequence[dict[str, Any]]]],
    total: int,
    origin: Origin,
    name: str,
    work: Work | None = None,
) -> Iterator[Rows]:
    """Each piece of the rows with one `reward_<component>` more per component.

    `total` is the number of rows, `name` what messages call them; `work` keeps the scores of a run that is killed.
    """
    parts = Parts(work, schema.scored(pa.schema([]), rewards.names))
    with tqdm(total=total, initial=parts.rows, desc=f"scoring {Path(name).stem}", unit="row") as bar:

        def score(start: int, rows: Sequence[dict[str, Any]]) -> Rows:
            texts = [row["prompt"] for row in rows], [row["response"] for row in rows], schema.contexts(list(rows))
            try:
                scores = rewards.score(*texts, origin=origin)
            except InputError as error:
                raise InputError(f"{name}, rows from {start} on: {error}") from error
            bar.update(len(rows))
            return [{f"reward_{one}": float(scores[one][i]) for one in scores} for i in range(len(rows))]

        for rows, found in parts.through(source, score):
            yield [{**row, **one} for row, one in zip(rows, found, strict=True)]


def annotate(rewards: Rewards, test_rewards: Rewards, source: Path, target: Path, work: Work | None = None) -> None:
    """Scores the splits of data/clean/<task>; training rows by models that have not seen their prompts."""
    for split in schema.SPLITS:
        origin: Origin = "train" if split == schema.TRAIN else "source"
        table, scorer = f"{split}.parquet", test_rewards if split == schema.TEST else rewards
        own = work.of(split) if work is not None else None
        score_table(scorer, source / table, target / table, schema.RESPONSES, origin, own)


def score_rollouts(
    rewards: Rewards, test_rewards: Rewards, source: Path, target: Path, work: Work | None = None
) -> None:
    """Scores the reference's responses to the validation and test prompts, and those sampled of its own.

    Sampled ones are what V(x) learns from: they are scored as training responses are, by `rewards`.
    """
    with replacing(target) as partial:
        for split in (schema.VALIDATION, schema.TEST):
            table, scorer = f"{split}.parquet", test_rewards if split == schema.TEST else rewards
            own = work.of(split) if work is not None else None
            score_table(scorer, source / table, partial / table, schema.ROLLOUTS, "generated", own)
        for path in sorted(paths.samples(source).glob("*.parquet")):
            own = work.of("samples").of(path.stem) if work is not None else None
            score_table(rewards, path, paths.samples(partial) / path.name, schema.SAMPLES, "generated", own)
        if (made_with := paths.samples(source) / SETTINGS).exists():
            write_json(paths.samples(partial) / SETTINGS, read_json(made_with))
