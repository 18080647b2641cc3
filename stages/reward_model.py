"""Trains the reward components that have a `train` section; an (almost) empty folder when there is none."""

from alol.base.files import write_json
from alol.config import paths
from alol.config.params import Params
from alol.rewards import training
from stages._cli import command


@command("reward_model")
def main(params: Params) -> None:
    """Train the reward models of the task."""
    metrics = training.train(params.rewards, paths.clean(params.task), paths.reward_model(params.task), params.launch)
    write_json(paths.METRICS / "reward_model.json", metrics)


if __name__ == "__main__":
    main()
