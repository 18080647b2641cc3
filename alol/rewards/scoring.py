"""Rows with one column per reward component, scored piece by piece by whoever a pool deals them out to."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from alol import rewards
from alol.base.errors import InputError
from alol.base.files import TARGET, read_json, write_json
from alol.base.work import Work
from alol.compute.shards import Bar, Done, Pool
from alol.config import paths
from alol.config.params import SETTINGS, Params
from alol.data import schema
from alol.data.parts import Parts, pieces
from alol.rewards.components import Origin, Rewards

Rows = list[dict[str, Any]]
Both = tuple[Rewards, Rewards]  # what scores training and validation texts, and the test split


@dataclass(frozen=True)
class Scoring:
    """What scores a task's tables: a pool with its rewards, and the names of the components, which are columns.

    `part_rows` responses are scored together; `work` keeps the scores of a run that is killed.
    """

    pool: Pool[Both]
    names: Sequence[str]
    part_rows: int
    work: Work | None = None

    @classmethod
    def of(cls, params: Params, folder: Path, work: Work | None = None, *, test: bool = False) -> Scoring:
        """With the components of a task, whose trained models lie in `folder` (models/<task>/reward_model).

        Without `work` this process scores alone. `test`: only what scores the test split is loaded.
        """
        specs = params.test_rewards if test else params.rewards
        recipe = partial(rewards.load_both, specs, params.test_rewards, folder, params.launch)
        pool = Pool(recipe) if work is None else Pool.of(recipe, params.launch, work)
        return cls(pool, list(specs), params.scoring.part_rows, work)

    def part(self, *names: str) -> Scoring:
        """For one table, whose scores are kept under these names."""
        work = self.work
        for name in names if work is not None else ():
            work = work.of(name)
        return dataclasses.replace(self, work=work)


def score_table(by: Scoring, source: Path, target: Path, columns: pa.Schema, origin: Origin, *, test: bool) -> None:
    """Copies the `columns` of a table and adds `reward_<component>`; raises InputError naming the table and the row.

    `test`: whether the rewards of the test split score it.
    """
    score = partial(_score, test=test, origin=origin, name=str(source))
    _write(by, lambda: schema.read(source, columns), schema.count(source), score, target, columns)


def score_rows(by: Scoring, rows: Rows, target: Path) -> None:
    """Writes rollouts with `reward_<component>` of the test split, as `score_table` does with a table's."""
    rows = [{column: value for column, value in row.items() if column in schema.ROLLOUTS.names} for row in rows]
    name = TARGET.sub(r"\1", str(target))
    score = partial(_score, test=True, origin="generated", name=name)
    _write(by, lambda: pieces([rows], schema.BATCH_ROWS), len(rows), score, target, schema.ROLLOUTS)


def _write(
    by: Scoring,
    source: Callable[[], Iterator[Sequence[dict[str, Any]]]],
    total: int,
    score: Callable[..., Rows],
    target: Path,
    columns: pa.Schema,
) -> None:
    parts, bar = Parts(by.work, schema.scored(pa.schema([]), by.names)), Bar(total, f"scoring {target.stem}", "row")
    scored = by.pool.map(lambda: pieces(source(), by.part_rows), score, parts, bar)
    if by.pool.main:
        with schema.writing(target, schema.scored(columns, by.names)) as file:
            for rows, found in scored:
                file.write({**row, **one} for row, one in zip(rows, found, strict=True))


def _score(
    both: Both, start: int, rows: Sequence[dict[str, Any]], done: Done, *, test: bool, origin: Origin, name: str
) -> Rows:
    """The scores of each row, as `reward_<component>`; `name` is what messages call the table."""
    texts = [row["prompt"] for row in rows], [row["response"] for row in rows], schema.contexts(list(rows))
    try:
        scores = both[test].score(*texts, origin=origin)
    except InputError as error:
        raise InputError(f"{name}, rows from {start} on: {error}") from error
    return [{f"reward_{one}": float(scores[one][i]) for one in scores} for i in range(len(rows))]


def annotate(by: Scoring, source: Path, target: Path, logged: str, *, same: bool) -> None:
    """Scores the splits of data/clean/<task>; training rows by models that have not seen their prompts.

    The table `logged` is the test split as the rewards of training score it; `same`: they are those of the test split.
    """
    for split in schema.SPLITS:
        origin: Origin = "train" if split == schema.TRAIN else "source"
        table, test = f"{split}.parquet", split == schema.TEST
        score_table(by.part(split), source / table, target / table, schema.RESPONSES, origin, test=test)
    if not same:
        score_table(by.part(logged), source / table, target / logged, schema.RESPONSES, "source", test=False)
    elif by.pool.main:
        shutil.copyfile(target / table, target / logged)


def score_rollouts(by: Scoring, source: Path, target: Path) -> None:
    """Scores the reference's responses to the validation and test prompts, and those sampled of its own.

    Sampled ones are what V(x) learns from, or what training compares with: they are scored as training responses are,
    those to training prompts by models that have not seen these.
    """
    for split in (schema.VALIDATION, schema.TEST):
        table, test = f"{split}.parquet", split == schema.TEST
        score_table(by.part(split), source / table, target / table, schema.ROLLOUTS, "generated", test=test)
    for path in sorted(paths.samples(source).glob("*.parquet")):
        own = by.part("samples", path.stem)
        origin: Origin = "answered" if path.stem == schema.TRAIN else "generated"
        score_table(own, path, paths.samples(target) / path.name, schema.SAMPLES, origin, test=False)
    if by.pool.main and (made_with := paths.samples(source) / SETTINGS).exists():
        write_json(paths.samples(target) / SETTINGS, read_json(made_with))
