"""Stage train: the policy, from the reference, with the chosen algorithm."""

from alol.base.work import Work
from alol.compute import launch
from alol.config import paths
from alol.config.params import Params, keep
from alol.training import train_policy
from stages._cli import command


def inputs(params: Params) -> train_policy.Inputs:
    """Where a run finds what it needs."""
    task = params.task
    return train_policy.Inputs(
        paths.reference(task),
        paths.reward_model(task),
        paths.advantages(task) / "train.parquet",
        paths.clean(task) / "train.parquet",
        paths.baselines(task) / "validation.parquet",
    )


@command("train", algorithm=True, distributed=True, inputs=lambda params: vars(inputs(params)).values())
def main(params: Params, work: Work) -> None:
    """Train the policy with the algorithm, keeping the checkpoint with the best validation reward."""
    task, accelerator = params.task, launch.accelerator(params.launch, work)
    with launch.output(paths.policy(task, params.algorithm), accelerator) as folder:
        train_policy.train_policy(params, inputs(params), folder, accelerator, work)
        if folder is not None:
            keep(params, ["algorithm", "hyperparameters", "seed", "train", "generate"], folder)


if __name__ == "__main__":
    main()
