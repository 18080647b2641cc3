"""Tables with one column per reward component, scored row group by row group."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from alol.base.errors import InputError
from alol.base.files import replacing
from alol.data import schema
from alol.rewards.components import Origin, Rewards


def score_table(rewards: Rewards, source: Path, target: Path, columns: pa.Schema, origin: Origin) -> None:
    """Copies the `columns` of a table and adds `reward_<component>`; raises InputError naming the table and the row."""
    start = 0
    with (
        schema.writing(target, schema.scored(columns, rewards.names)) as writer,
        tqdm(total=schema.count(source), desc=f"scoring {source.stem}", unit="row") as bar,
    ):
        for rows in schema.read(source, columns):
            texts = [row["prompt"] for row in rows], [row["response"] for row in rows], schema.contexts(rows)
            try:
                scores = rewards.score(*texts, origin=origin)
            except InputError as error:
                raise InputError(f"{source}, rows from {start} on: {error}") from error
            named = {f"reward_{name}": values.tolist() for name, values in scores.items()}
            writer.write({**row, **{name: values[i] for name, values in named.items()}} for i, row in enumerate(rows))
            start += len(rows)
            bar.update(len(rows))


def annotate(rewards: Rewards, test_rewards: Rewards, source: Path, target: Path) -> None:
    """Scores the splits of data/clean/<task>; training rows by models that have not seen their prompts."""
    for split in schema.SPLITS:
        origin: Origin = "train" if split == schema.TRAIN else "source"
        table, scorer = f"{split}.parquet", test_rewards if split == schema.TEST else rewards
        score_table(scorer, source / table, target / table, schema.RESPONSES, origin)


def score_rollouts(rewards: Rewards, test_rewards: Rewards, source: Path, target: Path) -> None:
    """Scores the reference's responses to the validation and test prompts."""
    with replacing(target) as partial:
        for split in (schema.VALIDATION, schema.TEST):
            table, scorer = f"{split}.parquet", test_rewards if split == schema.TEST else rewards
            score_table(scorer, source / table, partial / table, schema.ROLLOUTS, "generated")
