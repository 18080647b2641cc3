"""Stage advantage: reward minus value of every training response, beside the reference's token log-probabilities."""

from functools import partial
from pathlib import Path

from alol.base.work import Work
from alol.compute import shards
from alol.config import paths
from alol.config.params import Params
from alol.data import schema
from alol.training import advantage
from stages._cli import command


def inputs(params: Params) -> list[Path]:
    """What advantages depend on beside the parameters."""
    return [paths.reference(params.task), paths.value(params.task), _responses(params)]


def _responses(params: Params) -> Path:
    return paths.annotated(params.task) / "train.parquet"


@command("advantage", rows=True, inputs=inputs)
def main(params: Params, work: Work) -> None:
    """Compute A = R - V(x) and the reference's log-probabilities of the training responses."""
    recipe = partial(advantage.Models.load, paths.reference(params.task), paths.value(params.task), params)
    target = paths.advantages(params.task) / "train.parquet"
    with shards.Pool.of(recipe, params.launch, work) as pool:
        rows = advantage.of_table(_responses(params), pool, params, work)
        if pool.main:
            schema.write(target, schema.ADVANTAGES, rows)


if __name__ == "__main__":
    main()
