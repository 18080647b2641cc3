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
    return [paths.reference(params.task), paths.value(params.task), _responses(params), *samples]


def _samples(params: Params) -> Path:
    """The reference's own answers to the training prompts, scored, where they were asked for."""
    return paths.samples(paths.baselines(params.task)) / "train.parquet"


def _responses(params: Params) -> Path:
    return paths.annotated(params.task) / "train.parquet"


@command("advantage", rows=True, inputs=inputs)
def main(params: Params, work: Work) -> None:
    """Compute A = R - V(x) and the reference's log-probabilities of the training responses."""
    from alol.training import advantage  # not above: a process that only starts others needs no torch

    recipe = partial(advantage.Models.load, paths.reference(params.task), paths.value(params.task), params)
    target = paths.advantages(params.task) / "train.parquet"
    with shards.Pool.of(recipe, params.launch, work) as pool:
        rows = advantage.of_table(_responses(params), pool, params, work)
        if pool.main and params.generate.rollout.train_samples:
            schema.write(target, schema.COMPARED, advantage.compared(rows, _samples(params), params))
        elif pool.main:
            schema.write(target, schema.ADVANTAGES, rows)


if __name__ == "__main__":
    main()
