"""Stage train: the policy, from the reference, with the chosen algorithm."""

from alol.compute import launch
from alol.config import paths
from alol.config.params import Params, keep
from alol.training import train_policy
from stages._cli import command


@command("train", algorithm=True, distributed=True)
def main(params: Params) -> None:
    """Train the policy with the algorithm, keeping the checkpoint with the best validation reward."""
    task, accelerator = params.task, launch.accelerator(params.launch)
    with launch.output(paths.policy(task, params.algorithm), accelerator) as folder:
        inputs = train_policy.Inputs(
            paths.reference(task),
            paths.reward_model(task),
            paths.advantages(task) / "train.parquet",
            paths.clean(task) / "train.parquet",
            paths.baselines(task) / "validation.parquet",
        )
        train_policy.train_policy(params, inputs, folder, accelerator)
        if folder is not None:
            keep(params, ["algorithm", "hyperparameters", "seed", "train", "generate"], folder)


if __name__ == "__main__":
    main()
