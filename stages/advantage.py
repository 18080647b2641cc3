"""Stage advantage: reward minus value of every training response, beside the reference's token log-probabilities."""

from pathlib import Path

from alol.base.work import Work
from alol.compute import launch
from alol.config import paths
from alol.config.params import Params
from alol.data import schema
from alol.models import policies
from alol.training import advantage, value_head
from stages._cli import command


def inputs(params: Params) -> list[Path]:
    """What advantages depend on beside the parameters."""
    return [paths.reference(params.task), paths.value(params.task), _responses(params)]


def _responses(params: Params) -> Path:
    return paths.annotated(params.task) / "train.parquet"


@command("advantage", inputs=inputs)
def main(params: Params, work: Work) -> None:
    """Compute A = R - V(x) and the reference's log-probabilities of the training responses."""
    accelerator = launch.accelerator(params.launch)
    policy = policies.load(paths.reference(params.task))
    head = value_head.load(paths.value(params.task)).to(accelerator.device)
    rows = advantage.of_table(_responses(params), policy, head, params, accelerator, work)
    schema.write(paths.advantages(params.task) / "train.parquet", schema.ADVANTAGES, rows)


if __name__ == "__main__":
    main()
