"""Stage advantage: reward minus value of every training response, beside the reference's token log-probabilities."""

from functools import partial
from pathlib import Path

from alol.base.work import Work
from alol.compute import shards
from alol.config import paths
from alol.config.params import Params
from alol.data import schema
from stages._cli import command


def inputs(params: Params) -> list[Path]:
    """What advantages depend on beside the parameters."""
    samples = [_samples(params)] if params.generate.rollout.train_samples else []
    tables = [_responses(params), paths.logged(params.task), *samples]
    return [paths.reference(params.task), paths.value(params.task), *tables]


def _samples(params: Params) -> Path:
    """The reference's own answers to the training prompts, scored, where they were asked for."""
    return paths.samples(paths.baselines(params.task)) / "train.parquet"


def _responses(params: Params) -> Path:
    return paths.annotated(params.task) / "train.parquet"


@command("advantage", rows=True, inputs=inputs)
def main(params: Params, work: Work) -> None:
    """Compute A = R - V(x) and the reference's log-probabilities of the training and the test responses."""
    from alol.training import advantage  # not above: a process that only starts others needs no torch

    recipe = partial(advantage.Models.load, paths.reference(params.task), paths.value(params.task), params)
    with shards.Pool.of(recipe, params.launch, work) as pool, pool.output(paths.advantages(params.task)) as folder:
        rows, columns = advantage.of_table(_responses(params), pool, params, work), schema.ADVANTAGES
        if params.generate.rollout.train_samples:
            rows, columns = advantage.compared(rows, _samples(params), params), schema.COMPARED
        if pool.main:
            schema.write(folder / "train.parquet", columns, rows)
        rows = advantage.of_table(paths.logged(params.task), pool, params, work.of(schema.TEST), trained=False)
        if pool.main:
            schema.write(folder / "test.parquet", schema.ADVANTAGES, rows)


if __name__ == "__main__":
    main()
