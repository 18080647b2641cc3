"""Stage advantage: reward minus value of every training response, beside the reference's token log-probabilities."""

from alol.compute import launch
from alol.config import paths
from alol.config.params import Params
from alol.data import schema
from alol.models import policies
from alol.training import advantage, value
from stages._cli import command


@command("advantage")
def main(params: Params) -> None:
    """Compute A = R - V(x) and the reference's log-probabilities of the training responses."""
    accelerator = launch.accelerator(params.launch)
    policy = policies.load(paths.reference(params.task))
    head = value.load(paths.value(params.task)).to(accelerator.device)
    rows = advantage.of_table(paths.annotated(params.task) / "train.parquet", policy, head, params, accelerator)
    schema.write(paths.advantages(params.task) / "train.parquet", schema.ADVANTAGES, rows)


if __name__ == "__main__":
    main()
