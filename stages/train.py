"""Stage train: the policy, from the reference, with the chosen algorithm."""

from alol import improve, launch, paths
from alol.params import Params, keep
from stages._cli import command


@command("train", algorithm=True, distributed=True)
def main(params: Params) -> None:
    """Train the policy with the algorithm, keeping the checkpoint with the best validation reward."""
    task, accelerator = params.task, launch.accelerator(params.launch)
    with launch.output(paths.policy(task, params.algorithm), accelerator) as folder:
        inputs = improve.Inputs(
            paths.reference(task),
            paths.reward_model(task),
            paths.advantages(task) / "train.parquet",
            paths.clean(task) / "train.parquet",
            paths.baselines(task) / "validation.parquet",
        )
        improve.improve(params, inputs, folder, accelerator)
        if folder is not None:
            keep(params, ["algorithm", "hyperparameters", "seed", "train", "generate"], folder)


if __name__ == "__main__":
    main()
