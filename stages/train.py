"""Stage train: the policy, from the reference, with the chosen algorithm."""

from pathlib import Path

from alol.base.work import Work
from alol.config import paths
from alol.config.params import Params, keep
from stages._cli import command


def inputs(params: Params) -> dict[str, Path]:
    """Where a run finds what it needs, by the names of train_policy.Inputs."""
    task = params.task
    return {
        "reference": paths.reference(task),
        "reward_model": paths.reward_model(task),
        "advantages": paths.advantages(task) / "train.parquet",
        "prompts": paths.clean(task) / "train.parquet",
        "baseline": paths.baselines(task) / "validation.parquet",
    }


@command("train", algorithm=True, distributed=True, inputs=lambda params: inputs(params).values())
def main(params: Params, work: Work) -> None:
    """Train the policy with the algorithm, keeping the checkpoint with the best validation reward."""
    from alol.compute import launch  # not above: a process that only starts others needs no torch
    from alol.training import train_policy

    task, accelerator = params.task, launch.accelerator(params.launch, work)
    with launch.output(paths.policy(task, params.algorithm), accelerator) as folder:
        train_policy.train_policy(params, train_policy.Inputs(**inputs(params)), folder, accelerator, work)
        if folder is not None:
            keep(params, ["algorithm", "hyperparameters", "seed", "train", "generate"], folder)


if __name__ == "__main__":
    main()
